"""`sagan-deploy targets`: the GPUs that plans can be built for."""

from __future__ import annotations

from typing import Any

import typer

from sagan_deploy.cli.talk import JsonOption, print_json, print_result


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(targets)


def targets(json: JsonOption = False) -> None:
    """List known GPUs, their compute capability, which TensorRT builds plans for them, and whether it can here.

    Example: sagan-deploy targets
    """
    from exporters.gpu import local_gpus
    from exporters.targets import known_targets, resolve_targets
    from exporters.tensorrt.backend import installed

    here = {gpu.compute_capability for gpu in local_gpus()[0]}
    with_rtx, with_classic = installed("rtx"), installed("tensorrt")
    default = {target.name for target in resolve_targets("all-rtx")}
    rows = [
        {
            "target": target.name,
            "gpus": list(target.gpus),
            "rtx": "rtx" in target.flavours,
            "tensorrt": "tensorrt" in target.flavours,
            "all_rtx": target.name in default,
            "built_here": [
                *(["rtx"] if with_rtx and "rtx" in target.flavours else []),
                *(["tensorrt"] if with_classic and target.compute_capability in here else []),
            ],
        }
        for target in known_targets()
    ]
    if json:
        print_json(rows)
    else:
        print_result(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(
        "target", "GPUs", "flavour rtx (no GPU needed)", "flavour tensorrt (on that GPU)", "can be built here"
    )
    table.caption = "Names are taken as people say them: rtx-4090, RTX 3080 Ti, sm_89, or a list with commas."
    for row in rows:
        rtx = "in all-rtx" if row["all_rtx"] else "when named" if row["rtx"] else "no"
        table.add_row(
            row["target"],
            ", ".join(row["gpus"]),
            rtx,
            "yes" if row["tensorrt"] else "no",
            ", ".join(row["built_here"]) or "no",
        )
    return table
