"""A checkpoint to ONNX bytes: the inference form (or the training form, for comparison) with all that explains it."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, cast

from sagan_deploy.bundle.manifest import Artifact, TensorInfo, Verdict, image_shape
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.config import GeneratorConfig, from_dict, to_dict
from sagan_deploy.errors import ConfigError
from sagan_deploy.files import sha256_bytes
from sagan_deploy.optional import require
from sagan_deploy.progress import Progress, silent

if TYPE_CHECKING:
    from sagan_deploy.bundle.manifest import Precision
    from sagan_deploy.model.generator import Generator, GeneratorForm
    from sagan_deploy.model.inference import InferenceOptions

Form = Literal["inference", "training"]
_SMALLEST_OPSET = {"fp32": 18, "fp16": 18, "mixed": 18, "bf16": 22}  # bfloat16 convolutions exist from opset 22 on
_DEFAULT_OPSET = {"fp32": 20, "fp16": 20, "mixed": 20, "bf16": 22}


@dataclass(frozen=True)
class ExportedGenerator:
    """An ONNX file in memory.

    `metadata` is what the file's ``metadata_props`` hold; `nodes` counts its operations.
    """

    payload: bytes
    opset: int
    nodes: int
    z_type: Literal["float32", "float16"]
    metadata: dict[str, str]


def export_generator(
    checkpoint: Checkpoint,
    options: InferenceOptions | None = None,
    *,
    form: Form = "inference",
    opset: int | None = None,
    progress: Progress = silent,
) -> ExportedGenerator:
    """Export a generator to ONNX with a dynamic batch.

    Inputs are ``z`` (n, z_dim) and, for conditional generators, ``labels`` (n,) int64; the output is ``images``,
    (n, c, h, w) in [−1, 1] or (n, h, w, c) uint8. Equal checkpoints and options give equal bytes.

    Args:
        checkpoint: the generator.
        options: precision and form of the operations; None is float32.
        form: ``training`` writes the layers as they were trained, with spectral norm baked in; float32 only.
        opset: ONNX operator set; None chooses one that TensorRT 10 and later reads.
        progress: told when the export starts and ends.

    Raises:
        ConfigError: options that contradict each other.
        MissingError: torch or onnx is not installed.
    """
    for module in ("torch", "onnx", "onnxscript", "onnx_ir"):
        require(module, "export")
    from sagan_deploy.model.inference import InferenceOptions

    options = options or InferenceOptions()
    opset = _checked_opset(opset, options, form)
    task = f"export {options.precision}"
    progress(task, 0, 1)
    generator = checkpoint.generator()
    if form == "training":
        exported = _export(baked(generator), checkpoint, options, form, opset)
    else:
        from sagan_deploy.model.inference import to_inference

        exported = _export(to_inference(generator, options).rounded(), checkpoint, options, form, opset)
    progress(task, 1, 1)
    return exported


def onnx_artifact(exported: ExportedGenerator, path: str) -> Artifact:
    """The manifest's entry for an exported file that lies at `path`; nobody has judged it yet."""
    metadata = exported.metadata
    config = from_dict(GeneratorConfig, json.loads(metadata["sagan_deploy.config"]))
    output = cast('Literal["float", "uint8"]', metadata["sagan_deploy.output"])
    meaning = json.loads(metadata["sagan_deploy.meaning"])
    inputs = [TensorInfo("z", exported.z_type, ("n", config.z_dim), meaning["z"])]
    if config.conditional:
        inputs.append(TensorInfo("labels", "int64", ("n",), meaning["labels"]))
    images = TensorInfo(
        "images",
        "float32" if output == "float" else "uint8",
        ("n", *image_shape(config, output)),
        meaning["images"],
    )
    return Artifact(
        path=path,
        kind="onnx",
        sha256=sha256_bytes(exported.payload),
        size=len(exported.payload),
        precision=cast("Precision", metadata["sagan_deploy.precision"]),
        form=cast("Form", metadata["sagan_deploy.form"]),
        attention=cast('Literal["fused", "decomposed"]', metadata["sagan_deploy.attention"]),
        output=output,
        inputs=tuple(inputs),
        outputs=(images,),
        plan=None,
        verdict=Verdict("not_run", "not judged yet"),
    )


def baked(generator: Generator) -> Generator:
    """The training form in float32 with every W/σ computed once, in float64, and written as a plain weight.

    `generator` is in evaluation mode and is not changed: the network is built anew, because torch's way of taking a
    parametrisation away changes a class that copies share.
    """
    import torch

    from sagan_deploy.model.generator import Generator

    attention = dataclasses.replace(generator.config.attention, spectral_norm=False)
    config = dataclasses.replace(generator.config, spectral_norm=False, attention=attention)
    with torch.random.fork_rng(devices=[]):
        plain = Generator(config)
    exact = copy.deepcopy(generator).double()
    for name, value in plain.state_dict().items():
        path, _, leaf = name.rpartition(".")
        value.copy_(getattr(exact.get_submodule(path), leaf))
    return plain.eval().requires_grad_(False)


def _export(
    module: GeneratorForm, checkpoint: Checkpoint, options: InferenceOptions, form: Form, opset: int
) -> ExportedGenerator:
    import torch

    from exporters.onnx import add_metadata, export_onnx, stage_outputs
    from exporters.specs import OnnxSpec

    config = checkpoint.config
    z_type = torch.float16 if options.io_precision == "fp16" else torch.float32
    # Two rows: a batch of one would be taken for a constant by the exporter.
    inputs = {"z": torch.zeros(2, config.z_dim, dtype=z_type)}
    if config.conditional:
        inputs["labels"] = torch.zeros(2, dtype=torch.int64)
    spec = OnnxSpec(
        input_names=tuple(inputs),
        output_names=("images",),
        dynamic_axes={name: {0: "n"} for name in inputs},
        opset=opset,
    )
    result = export_onnx(module, inputs, spec)
    metadata = _metadata(module, checkpoint, options, form)
    metadata["sagan_deploy.stages"] = json.dumps(stage_outputs(result.payload, _comparable_stages(module)))
    payload = add_metadata(result.payload, metadata)
    return ExportedGenerator(
        payload, result.opset, result.nodes, "float16" if z_type == torch.float16 else "float32", metadata
    )


def _metadata(module: GeneratorForm, checkpoint: Checkpoint, options: InferenceOptions, form: Form) -> dict[str, str]:
    layouts: tuple[str, ...] = getattr(module, "attention_layouts", ())
    attention = "fused" if layouts and set(layouts) == {"fused"} else "decomposed"
    step = {"step": "export", "form": form, "checkpoint_sha256": checkpoint.sha256, **dataclasses.asdict(options)}
    return {
        "sagan_deploy.version": version("sagan-deploy"),
        "sagan_deploy.config": json.dumps(to_dict(checkpoint.config)),
        "sagan_deploy.class_names": json.dumps(checkpoint.class_names),
        "sagan_deploy.precision": options.precision,
        "sagan_deploy.form": form,
        "sagan_deploy.attention": attention,
        "sagan_deploy.attention_blocks": str(_half_attention(checkpoint.config, options)),
        "sagan_deploy.float32_parts": json.dumps(options.float32),
        "sagan_deploy.output": options.output,
        "sagan_deploy.checkpoint_sha256": checkpoint.sha256 or "",
        "sagan_deploy.provenance": json.dumps([*checkpoint.provenance, step]),
        "sagan_deploy.meaning": json.dumps(_meaning(checkpoint, options)),
    }


def _half_attention(config: GeneratorConfig, options: InferenceOptions) -> int:
    """How many attention blocks lie outside of the float32 parts."""
    paths = (f"stages.{stage - 1}" for stage in config.attention_after)
    return sum(not {path, f"{path}.attention"} & set(options.float32) for path in paths)


def _meaning(checkpoint: Checkpoint, options: InferenceOptions) -> dict[str, str]:
    """What each input and output means, in words for people who find the file alone."""
    meaning = {"z": "latents, independent standard normal numbers"}
    if checkpoint.config.conditional:
        meaning["labels"] = f"class of each image, 0 to {checkpoint.config.num_classes - 1}"
    pixels = "8-bit codes, n h w c" if options.output == "uint8" else "n c h w, from -1 (black) to 1 (white)"
    order = "RGB" if checkpoint.config.image_channels == 3 else f"{checkpoint.config.image_channels} channels"
    meaning["images"] = f"images, {order}, {pixels}"
    return meaning


def _comparable_stages(module: GeneratorForm) -> list[str]:
    """Module paths whose output means the same in both forms, in order."""
    paths = ["stem", *(f"stages.{i}" for i in range(len(module.stages)))]
    # A folded last norm turns the last stage's output into the normalised one.
    return paths[:-1] if getattr(module, "final_norm_folded", False) else paths


def _checked_opset(opset: int | None, options: InferenceOptions, form: Form) -> int:
    if form == "training" and (options.precision, options.output) != ("fp32", "float"):
        raise ConfigError("--form training is for comparison and comes in --precision fp32 --output float only")
    if opset is None:
        return _DEFAULT_OPSET[options.precision]
    smallest = _SMALLEST_OPSET[options.precision]
    if not smallest <= opset <= 24:
        raise ConfigError(f"opset (={opset}) must lie in {smallest}..24 for precision {options.precision}")
    return opset
