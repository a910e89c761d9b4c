"""`sagan-deploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sagan_deploy.cli.talk import JsonOption, print_json, print_result


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint, an .onnx, a .plan or a bundle.")],
    json: JsonOption = False,
) -> None:
    """Say what a file is: config, inputs and outputs, where it comes from, precision, fused kernels, hashes.

    Example: sagan-deploy inspect bundle
    """
    from sagan_deploy.inspection import inspect_file

    found = inspect_file(file).to_dict()
    if json:
        print_json(found)
    else:
        print_result(_table(found))


def _table(values: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("what", "value", show_lines=False)
    for name, value in values.items():
        _add_rows(table, name.replace("_", " "), value)
    return table


def _add_rows(table: Any, name: str, value: Any) -> None:
    from rich.markup import escape

    if value is None or value in ([], {}):
        return
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value, 1):
            _add_rows(table, f"{name} {number}", item)
    elif isinstance(value, dict):
        kernels = value.get("kernels")
        value = {key: item for key, item in value.items() if key != "kernels"}
        text = "\n".join(f"{key.replace('_', ' ')}: {_text(item)}" for key, item in value.items())
        table.add_row(escape(name), escape(text), end_section=not kernels)
        if kernels:
            lines = "\n".join(f"{part}: {_kernels(facts)}" for part, facts in kernels.items())
            table.add_row(escape(f"{name} kernels"), escape(lines), end_section=True)
    else:
        table.add_row(escape(name), escape(_text(value)))


def _kernels(facts: dict[str, Any]) -> str:
    """One part of the generator in a line: how many kernels, in which types, and those of fused attention by name."""
    count, types = len(facts["kernels"]), ", ".join(facts["types"])
    line = f"{count} {'kernel' if count == 1 else 'kernels'}, {types or 'no inputs'}"
    fused = [kernel["name"] for kernel in facts["kernels"] if kernel["role"] == "attention"]
    return f"{line}, fused attention in {', '.join(fused)}" if fused else line


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:_}".replace("_", " ") if type(value) is int else str(value)
