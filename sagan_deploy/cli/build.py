"""`sagan-deploy build`: ONNX to a TensorRT plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars

if TYPE_CHECKING:
    from sagan_deploy.build import BuiltPlan


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(build)


def build(
    onnx: Annotated[Path, typer.Argument(help="An ONNX model; its types decide the precision of the plan.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan to write; OUT.json is written beside it.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="GPUs that the plan is for: names, sm_XX, a list with commas, all-rtx or local. By default all-rtx, "
            "or local for --flavour tensorrt. See: sagan-deploy targets"
        ),
    ] = None,
    flavour: Annotated[
        Literal["auto", "rtx", "tensorrt"],
        typer.Option(help="rtx builds ahead of time without a GPU; tensorrt builds on the GPU that the plan is for."),
    ] = "auto",
    min_batch: Annotated[int, typer.Option(min=1, help="The smallest batch.")] = 1,
    opt_batch: Annotated[int | None, typer.Option(min=1, help="The batch to tune for; by default 8 at most.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch; memory grows with it.")] = 64,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="The most scratch memory in MiB; by default TensorRT's own limit.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build a TensorRT plan, and check that its precision and fused attention are what the ONNX model was made for.

    Example: sagan-deploy build generator.fp16.onnx --out generator.plan --target rtx-4090,rtx-5090
    """
    from sagan_deploy.build import build_plan, write_plan
    from sagan_deploy.files import refuse_existing_file

    refuse_existing_file(out, force=force)
    with progress_bars(quiet=quiet) as progress:
        built = build_plan(
            onnx,
            targets=(target or ("local" if flavour == "tensorrt" else "all-rtx"),),
            flavour=flavour,
            min_batch=min_batch,
            opt_batch=opt_batch,
            max_batch=max_batch,
            workspace_bytes=None if workspace is None else workspace * 2**20,
            progress=progress,
        )
    write_plan(out, built)
    facts = _facts(out, built)
    if json:
        print_json(facts)
    else:
        print_result(_table(facts))


def _facts(out: Path, built: BuiltPlan) -> dict[str, Any]:
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
        "kernels": len(result.layers.layers),
        "fused_attention": result.layers.fused_attention,
        "bytes": len(result.plan),
        "activation_bytes": result.activation_bytes,
        "weight_bytes": result.weight_bytes,
        "seconds": round(result.seconds, 3),
        "layer_digest": result.layers.digest,
        "executed": "not run: building needs no GPU, running does",
    }


def _ranges(shapes: list[dict[str, list[int]]]) -> str:
    """``[1, 128] to [64, 128], tuned for [8, 128]`` for every profile."""
    return "; ".join(f"{s['min']} to {s['max']}, tuned for {s['opt']}" for s in shapes) or "fixed"


def _table(facts: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "value")
    memory = f"{facts['activation_bytes'] / 1e6:.1f} MB and {facts['weight_bytes'] / 1e6:.1f} MB weights"
    shown = {
        "plan": facts["plan"],
        "sidecar": facts["sidecar"] or "none: the ONNX model is not from sagan-deploy, so nothing was asserted",
        "built with": facts["built_with"],
        "for": ", ".join(facts["targets"]),
        "precision": f"{facts['precision']} (asserted)" if facts["precision"] else "that of the ONNX model",
        "inputs": "\n".join(f"{name}: {_ranges(shapes)}" for name, shapes in facts["inputs"].items()),
        "kernels": f"{facts['kernels']}, of which fused attention: {facts['fused_attention']}",
        "size": f"{facts['bytes'] / 1e6:.1f} MB",
        "planned GPU memory": memory,
        "build time": f"{facts['seconds']:.1f} s",
        "executed": facts["executed"],
    }
    for name, value in shown.items():
        table.add_row(name, escape(value))
    return table
