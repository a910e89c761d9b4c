"""Batch norm over the batch of all processes: with it, many small batches are the one large batch that was meant.

torch's `SyncBatchNorm` does the same on GPUs only; this one needs nothing but `torch.distributed`, so two processes
on a CPU can prove it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """(x − μ)/√(v + ε) with μ and v over the rows of all processes, all of which bring equally many.

    In evaluation mode an ordinary batch norm. The condition of conditional norms is ignored, as everywhere.
    """

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        if not self.training:
            return super().forward(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # sums of bfloat16 would lose what they measure
        means, variances = _everyones(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))
        # Var = E[Var | process] + Var[E | process]: exact, and without the cancellation of E[x²] − E[x]².
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            self._remember(mean, variance, x.numel() // x.shape[1] * len(means))
        normalised: Tensor = _Normalise.apply(x, mean, variance, self.eps)  # type: ignore[no-untyped-call]
        if not self.affine:
            return normalised
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)


class _Normalise(torch.autograd.Function):
    """x̂ = (x − μ)/√(v + ε); its gradient is (dy − mean(dy) − x̂ · mean(dy · x̂))/√(v + ε), means over all processes.

    That is the gradient of the sum of all processes' losses, as their averaging of weight gradients expects.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(variance + eps)
        normalised = (x - mean[:, None, None]) * scale[:, None, None]
        ctx.save_for_backward(normalised, scale)
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        normalised, scale = ctx.saved_tensors
        first, second = _everyones(gradient.mean((0, 2, 3)), (gradient * normalised).mean((0, 2, 3)))
        inner = gradient - first.mean(0)[:, None, None] - normalised * second.mean(0)[:, None, None]
        return inner * scale[:, None, None], None, None, None


def _everyones(*values: Tensor) -> list[Tensor]:
    """Per-channel values [c] of all processes as [processes, c] each, in one message."""
    mine = torch.stack([value.detach() for value in values])
    everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, mine)
    return list(torch.stack(everyones, dim=1))


def synchronise(network: nn.Module) -> None:
    """Replace every batch norm in a network by its synchronised form, with the same parameters, buffers and names."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _synchronised(child))


def _synchronised(norm: nn.BatchNorm2d) -> SynchronisedBatchNorm2d:
    new = SynchronisedBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    # The very same tensors: optimisers hold the parameters already.
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(new, name, buffer)
    return new.train(norm.training)
