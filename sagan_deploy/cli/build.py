"""`sagan-deploy build`: ONNX to a TensorRT plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars
from sagan_deploy.errors import ConfigError

if TYPE_CHECKING:
    from exporters.specs import Profile, Weights
    from exporters.tensorrt.builder import CheckedModel
    from sagan_deploy.build import BatchRange, BuiltPlan


_Onnx = Annotated[
    Path, typer.Argument(help="An ONNX model, whose types decide the precision; or a bundle, to build its plan here.")
]
_Out = Annotated[Path | None, typer.Option("--out", "-o", help="The plan to write; OUT.json is written beside it.")]
_Target = Annotated[
    str | None,
    typer.Option(
        help="GPUs that the plan is for: names, sm_XX, a list with commas, all-rtx or local. By default all-rtx, "
        "or local for --flavour tensorrt. See: sagan-deploy targets"
    ),
]
_Flavour = Annotated[
    Literal["auto", "rtx", "tensorrt"],
    typer.Option(help="rtx builds ahead of time without a GPU; tensorrt builds on the GPU that the plan is for."),
]
_Profile = Annotated[
    list[str] | None,
    typer.Option(help="MIN:OPT:MAX batch of one of several profiles, instead of the three above. Repeatable."),
]
_MinShapes = Annotated[
    list[str] | None, typer.Option(help="Shapes of all inputs, z:1x128,labels:1 or z:[1,128],labels:[1]. Repeatable.")
]
_OptShapes = Annotated[list[str] | None, typer.Option(help="As --min-shapes, to tune for.")]
_MaxShapes = Annotated[list[str] | None, typer.Option(help="As --min-shapes, the largest.")]
_TimingCache = Annotated[Path | None, typer.Option(help="Kernel timings to read and extend; classic TensorRT only.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check that it can be built; write nothing.")]
_Workspace = Annotated[
    int | None, typer.Option(min=1, help="The most scratch memory in MiB; by default TensorRT's own limit.")
]
_Refit = Annotated[bool, typer.Option("--refit", help="Weights can be replaced in the loaded plan. Needs a GPU here.")]
_Strip = Annotated[
    bool,
    typer.Option("--strip", help="Leave the weights out; loading takes those of the ONNX model. Needs a GPU here."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(build)


def build(
    context: typer.Context,
    onnx: _Onnx,
    out: _Out = None,
    target: _Target = None,
    flavour: _Flavour = "auto",
    min_batch: Annotated[int, typer.Option(min=1, help="The smallest batch.")] = 1,
    opt_batch: Annotated[int | None, typer.Option(min=1, help="The batch to tune for; by default 8 at most.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch; memory grows with it.")] = 64,
    profile: _Profile = None,
    min_shapes: _MinShapes = None,
    opt_shapes: _OptShapes = None,
    max_shapes: _MaxShapes = None,
    timing_cache: _TimingCache = None,
    dry_run: _DryRun = False,
    workspace: _Workspace = None,
    refit: _Refit = False,
    strip: _Strip = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build a TensorRT plan, and check that its precision and fused attention are what the ONNX model was made for.

    Example: sagan-deploy build generator.fp16.onnx --out generator.plan --target rtx-4090,rtx-5090
    """
    from sagan_deploy.build import build_plan, check_plan, write_plan
    from sagan_deploy.files import refuse_existing_file, write_bytes

    if onnx.is_dir():
        _first_use(onnx, context, quiet=quiet, as_json=json)
        return
    targets = (target or ("local" if flavour == "tensorrt" else "all-rtx"),)
    weights = _weights(refit, strip)
    profiles = _profiles(profile or [], (min_shapes or [], opt_shapes or [], max_shapes or []))
    asked: dict[str, Any] = {"targets": targets, "flavour": flavour, "profiles": profiles, "weights": weights}
    asked |= {"min_batch": min_batch, "opt_batch": opt_batch, "max_batch": max_batch}
    if dry_run:
        checked = check_plan(onnx, **asked)
        _show_checked(*checked, as_json=json)
        return
    if out is None:
        raise ConfigError("--out is missing: name the plan to write, or check only with --dry-run")
    refuse_existing_file(out, force=force)
    with progress_bars(quiet=quiet) as progress:
        built = build_plan(
            onnx,
            workspace_bytes=None if workspace is None else workspace * 2**20,
            timing_cache=_timings(timing_cache),
            progress=progress,
            **asked,
        )
    write_plan(out, built)
    if timing_cache is not None and built.result.timing_cache is not None:
        write_bytes(timing_cache, built.result.timing_cache)
    facts = _facts(out, built, weights)
    print_json(facts) if json else print_result(_table(facts))


def _first_use(bundle: Path, context: typer.Context, *, quiet: bool, as_json: bool) -> None:
    """The plan that `load(bundle, build_missing=True)` would build: made now, for the GPU of this machine."""
    from sagan_deploy.bundle.bundle import open_bundle
    from sagan_deploy.first_use import build_missing

    meant = {"onnx", "json", "quiet"} | ({"target"} if context.params["target"] == "local" else set())
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if others := sorted(f"--{name.replace('_', '-')}" for name in given - meant):
        raise ConfigError(
            f"{bundle} is a bundle, whose plan is built for this machine into the cache, as loading it looks for it: "
            f"leave {', '.join(others)} out. For other GPUs build from an ONNX file, or deploy again with --target."
        )
    opened = open_bundle(bundle)
    opened.verify_hashes()
    with progress_bars(quiet=quiet) as progress:
        plan = build_missing(opened, 0, progress=progress)
    print_json({"plan": str(plan)}) if as_json else print_result(f"{plan}: built and judged by the golden images")


def _weights(refit: bool, strip: bool) -> Weights:
    if refit and strip:
        raise ConfigError("--refit and --strip exclude each other: a stripped plan takes back its own weights only")
    return "refittable" if refit else "stripped" if strip else "fixed"


def _timings(path: Path | None) -> bytes | None:
    from sagan_deploy.files import read_bytes

    if path is None:
        return None
    return read_bytes(path) if path.exists() else b""


def _profiles(batches: list[str], shapes: tuple[list[str], list[str], list[str]]) -> tuple[BatchRange | Profile, ...]:
    """The profiles of the options, in their order."""
    from exporters.shapes import parse_profile

    found: list[BatchRange | Profile] = []
    for text in batches:
        parts = text.split(":")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise ConfigError(f"--profile {text} must be MIN:OPT:MAX, for example 1:8:64")
        low, best, high = (int(part) for part in parts)
        found.append((low, best, high))
    if len({len(texts) for texts in shapes}) != 1:
        raise ConfigError("--min-shapes, --opt-shapes and --max-shapes belong together: give all three, equally often")
    if batches and shapes[0]:
        raise ConfigError("--profile and --min-shapes say the same in two ways; give one of them")
    return (*found, *(parse_profile(*texts) for texts in zip(*shapes, strict=True)))


def _show_checked(checked: CheckedModel, product: str, *, as_json: bool) -> None:
    tensors = {
        kind: {name: {"type": dtype, "shape": list(shape)} for name, dtype, shape in entries}
        for kind, entries in (("inputs", checked.inputs), ("outputs", checked.outputs))
    }
    targets = [target.name for target in checked.targets]
    if as_json:
        print_json({"checked_with": product, "targets": targets, "layers": checked.layers, **tensors, "built": False})
    else:
        print_result(
            f"{product} takes the model for {', '.join(targets)}: {checked.layers} layers, "
            f"inputs {', '.join(tensors['inputs'])}, outputs {', '.join(tensors['outputs'])}. Nothing was built."
        )


def _facts(out: Path, built: BuiltPlan, weights: Weights) -> dict[str, Any]:
    from sagan_deploy.bundle.kernels import kernels_of

    result = built.result
    artifact = built.manifest.artifacts[0] if built.manifest is not None else None
    return {
        "plan": str(out),
        "sidecar": f"{out}.json" if artifact is not None else None,
        "built_with": built.product,
        "targets": [target.name for target in result.targets],
        "inputs": {
            tensor.name: [{"min": list(s.min), "opt": list(s.opt), "max": list(s.max)} for s in tensor.profiles]
            for tensor in result.layers.io
            if tensor.is_input
        },
        "precision": artifact.precision if artifact is not None else None,
        "weights": weights,
        "kernels": len(result.layers.layers),
        "fused_attention": result.layers.fused_attention,
        "attention_blocks": None if built.manifest is None else len(built.manifest.generator.attention_after),
        "attention_kernels": sorted({k.name for k in kernels_of(result.layers) if k.role == "attention"}),
        "bytes": len(result.plan),
        "activation_bytes": result.activation_bytes,
        "profile_activation_bytes": list(result.profile_activation_bytes),
        "weight_bytes": result.weight_bytes,
        "seconds": round(result.seconds, 3),
        "layer_digest": result.layers.digest,
        "executed": "not run: building needs no GPU, running does",
    }


def _ranges(shapes: list[dict[str, list[int]]]) -> str:
    """``[1, 128] to [64, 128], tuned for [8, 128]`` for every profile."""
    return "; ".join(f"{s['min']} to {s['max']}, tuned for {s['opt']}" for s in shapes) or "fixed"


def _attention(facts: dict[str, Any]) -> str:
    fused, blocks = facts["fused_attention"], facts["attention_blocks"]
    into = f" into {', '.join(facts['attention_kernels'])}" if fused else ""
    return f"{fused} of {blocks} blocks fused{into}" if blocks is not None else f"{fused} blocks fused{into}"


def _table(facts: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "value")
    per_profile = ", ".join(f"{size / 1e6:.1f} MB" for size in facts["profile_activation_bytes"])
    memory = f"{per_profile or 'unknown'} of activations by profile, and {facts['weight_bytes'] / 1e6:.1f} MB weights"
    shown = {
        "plan": facts["plan"],
        "sidecar": facts["sidecar"] or "none: the ONNX model is not from sagan-deploy, so nothing was asserted",
        "built with": facts["built_with"],
        "for": ", ".join(facts["targets"]),
        "precision": f"{facts['precision']} (asserted)" if facts["precision"] else "that of the ONNX model",
        "inputs": "\n".join(f"{name}: {_ranges(shapes)}" for name, shapes in facts["inputs"].items()),
        "weights": facts["weights"],
        "kernels": str(facts["kernels"]),
        "attention": _attention(facts),
        "size": f"{facts['bytes'] / 1e6:.1f} MB",
        "planned GPU memory": memory,
        "build time": f"{facts['seconds']:.1f} s",
        "executed": facts["executed"],
    }
    for name, value in shown.items():
        table.add_row(name, escape(value))
    return table
