"""Small generators of every kind, with statistics and gains as after a training run, so that mistakes show."""

from __future__ import annotations

import torch
from torch import nn

from sagan_deploy.checkpoints.native import Checkpoint, checkpoint_of
from sagan_deploy.config import AttentionConfig, GeneratorConfig
from sagan_deploy.model.generator import Generator

TINY = GeneratorConfig(z_dim=8, num_classes=3, widths=(32, 24, 16), norm="class_table", attention_after=(1,))

CONFIGS: dict[str, GeneratorConfig] = {
    "sagan": TINY,
    "sagan-scaled-attention-last": GeneratorConfig(
        z_dim=8, num_classes=3, widths=(32, 24, 16), norm="class_table", attention_after=(2,),
        attention=AttentionConfig(scale="rsqrt", bias=True), embedding_dim=4, stem_input="condition",
    ),
    "unconditional": GeneratorConfig(z_dim=8, widths=(32, 24, 16), attention_after=(1,)),
    "two-attentions": GeneratorConfig(
        z_dim=8, num_classes=3, widths=(48, 32, 16), norm="class_table", attention_after=(1, 2)
    ),
    "biggan": GeneratorConfig(
        z_dim=20, num_classes=5, widths=(32, 32, 16, 16, 8), norm="vector", embedding_dim=6,
        stage_condition="embedding_and_latent", latent_chunks=True, attention_after=(3,),
    ),
    "biggan-deep": GeneratorConfig(
        z_dim=12, num_classes=5, widths=(32, 32, 16, 16), upsample=(False, True, True), norm="vector", embedding_dim=6,
        stem_input="condition", stage_condition="embedding_and_latent", block="bottleneck", attention_after=(2,),
        condition_order="latent_first",
    ),
    "plain-blocks": GeneratorConfig(
        z_dim=12, num_classes=5, widths=(32, 32, 16), norm="class_table", block="plain", tail="conv",
        stem_activation="activation", attention_after=(1,), activation="leaky_relu",
        attention=AttentionConfig(pool=False, output_conv=False, value_ratio=1, bias=True),
    ),
    "transposed-convolutions": GeneratorConfig(
        z_dim=12, widths=(32, 24, 16), block="deconv", tail="deconv", stem_activation="norm_activation",
        attention_after=(1, 2),
        attention=AttentionConfig(
            pool=False, output_conv=False, value_ratio=1, bias=True, attention_map="untransposed"
        ),
    ),
    "bilinear": GeneratorConfig(
        z_dim=12, num_classes=5, widths=(32, 24, 16), norm="class_table", upsampling="bilinear", attention_after=(2,)
    ),
    "conditional-stem-norm": GeneratorConfig(
        z_dim=12, num_classes=5, widths=(24, 16), norm="class_table", stem_activation="norm_activation",
        activation="gelu",
    ),
}  # fmt: skip


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm, bias, table and γ a value that matters, then switch to evaluation."""
    source = torch.Generator().manual_seed(seed)

    def fill(tensor: torch.Tensor, mean: float, spread: float) -> None:
        with torch.no_grad():
            tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=source))

    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            fill(part.running_mean, 0.0, 0.2)
            with torch.no_grad():
                part.running_var.copy_(0.02 + torch.rand(part.running_var.shape, generator=source))
            if part.affine:
                fill(part.weight, 1.0, 0.2)
                fill(part.bias, 0.0, 0.2)
        if hasattr(part, "gamma"):
            fill(part.gamma, 0.8, 0.1)
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and part.bias is not None:
            fill(part.bias, 0.0, 0.1)
        if isinstance(part, nn.Embedding):
            fill(part.weight, 1.0 if part.weight.mean() > 0.5 else 0.0, 0.3)
    return module.eval().requires_grad_(False)


def settled(generator: Generator) -> Generator:
    """Let the statistics become those of the generator's own feature maps, as training leaves them."""
    norms = [part for part in generator.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
        norm.train()
    with torch.no_grad():
        for _ in range(4):
            generator(*inputs(generator.config, 64, torch.float32))
    for norm in norms:
        norm.momentum = 0.1
    return generator.eval()


def tiny_generator(config: GeneratorConfig = TINY, seed: int = 0) -> Generator:
    """A lively generator of this config; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(config)
    lively(generator, seed)
    return settled(generator)


def tiny_checkpoint(config: GeneratorConfig = TINY, seed: int = 0) -> Checkpoint:
    """The same as a checkpoint in memory."""
    names = tuple(f"class {i}" for i in range(config.num_classes))
    return checkpoint_of(tiny_generator(config, seed), class_names=names, provenance=({"step": "test"},))


def inputs(config: GeneratorConfig, count: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Latents and, for conditional generators, labels that name several classes."""
    source = torch.Generator().manual_seed(7)
    z = torch.randn(count, config.z_dim, generator=source, dtype=torch.float64).to(dtype)
    return (z, torch.arange(count) % config.num_classes) if config.conditional else (z,)
