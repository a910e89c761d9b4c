"""Tiny networks with the two layouts of attention, and their ONNX models, exported once per run."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F

from exporters.onnx import OnnxResult, export_onnx
from exporters.specs import EngineSpec, OnnxSpec, Profile, ShapeRange
from tests.exports import once

WIDTH, Z = 32, 8
PATHS = ("stem", "stages.0", "stages.1", "tail")


class FusedAttention(nn.Module):
    """Queries, keys and values of one width, in four dimensions by one Reshape: TensorRT makes it one kernel."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(WIDTH, WIDTH // 2, 1) for _ in range(3))
        self.output = nn.Conv2d(WIDTH // 2, WIDTH, 1)

    def forward(self, x):
        height, width = x.shape[2:]
        shape = (-1, 1, WIDTH // 2, height * width)
        query, key, value = (part(x).reshape(shape) for part in (self.query, self.key, self.value))
        scores = (query.transpose(2, 3) @ key).float().softmax(-1).to(x.dtype)
        out = (scores @ value.transpose(2, 3)).transpose(2, 3).reshape(-1, WIDTH // 2, height, width)
        return x + self.output(out)


class PlainAttention(nn.Module):
    """The same as people write it: three dimensions, queries and keys of another width than the values."""

    def __init__(self):
        super().__init__()
        self.query, self.key = (nn.Conv2d(WIDTH, WIDTH // 8, 1) for _ in range(2))
        self.value, self.output = nn.Conv2d(WIDTH, WIDTH // 2, 1), nn.Conv2d(WIDTH // 2, WIDTH, 1)

    def forward(self, x):
        query, key, value = (part(x).flatten(2) for part in (self.query, self.key, self.value))
        scores = (query.transpose(1, 2) @ key).float().softmax(-1).to(x.dtype)
        out = (value @ scores.transpose(1, 2)).view(x.shape[0], WIDTH // 2, *x.shape[2:])
        return x + self.output(out)


class Stage(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.conv, self.attention = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), attention()

    def forward(self, x):
        return self.attention(torch.relu(self.conv(F.interpolate(x, scale_factor=2.0))))


class Network(nn.Module):
    def __init__(self, attention=FusedAttention):
        super().__init__()
        self.table, self.stem = nn.Embedding(3, WIDTH), nn.Linear(Z, WIDTH * 16)
        self.stages = nn.ModuleList([Stage(attention), Stage(attention)])
        self.tail = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, z, labels):
        x = self.stem(z.to(self.stem.weight.dtype)).view(-1, WIDTH, 4, 4) + self.table(labels)[:, :, None, None]
        for stage in self.stages:
            x = stage(x)
        return torch.tanh(self.tail(x)).float()


SPEC = OnnxSpec(("z", "labels"), ("images",), {"z": {0: "n"}, "labels": {0: "n"}})


def network(attention=FusedAttention, dtype=torch.float32) -> Network:
    torch.manual_seed(0)
    return Network(attention).eval().to(dtype)


def inputs(count: int = 2) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {"z": torch.randn(count, Z, generator=source), "labels": torch.arange(count) % 3}


def export_now(attention: str = "fused", dtype: torch.dtype = torch.float16) -> OnnxResult:
    kind = {"fused": FusedAttention, "plain": PlainAttention}[attention]
    opset = 22 if dtype == torch.bfloat16 else 20
    spec = OnnxSpec(SPEC.input_names, SPEC.output_names, SPEC.dynamic_axes, opset)
    return export_onnx(network(kind, dtype), inputs(), spec)


@functools.cache  # so that a worker reads the file once
def exported(attention: str = "fused", dtype: torch.dtype = torch.float16) -> OnnxResult:
    return once(OnnxResult, ("models", attention, dtype), lambda: export_now(attention, dtype))


def profile(low: int = 1, best: int = 4, high: int = 8) -> Profile:
    batches = (low, best, high)
    return {"z": ShapeRange(*((n, Z) for n in batches)), "labels": ShapeRange(*((n,) for n in batches))}


def engine_spec(**changes) -> EngineSpec:
    return EngineSpec(**({"targets": ("rtx-4090",), "profiles": (profile(),)} | changes))
