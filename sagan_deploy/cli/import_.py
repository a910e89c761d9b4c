"""`sagan-deploy import`: a public implementation's checkpoint to ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagan_deploy.cli.talk import ForceOption, JsonOption, QuietOption, print_json, print_result, progress_bars
from sagan_deploy.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from sagan_deploy.checkpoints.importing import ImportedCheckpoint
    from sagan_deploy.checkpoints.proof import Proof


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(name="import")(import_)


def import_(
    files: Annotated[
        list[Path], typer.Argument(help="The original's checkpoint, and its own config file where it has one.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write (.safetensors).")],
    origin: Annotated[str | None, typer.Option("--from", help="Who wrote it. Default: detected.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE for what the file does not tell, for example norm_eps=1e-4. Repeatable."
        ),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="An .npz with z, labels and images that the original drew; held against it.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Load a generator that other code trained. Nothing in the file is executed; discriminators are not imported.

    Origins: heykeetae, voletiv, biggan-pytorch, mimicry, studiogan, rosinality, mmgeneration, huggingface-biggan.

    Example: sagan-deploy import G_ema.pth state_dict.pth --out generator.safetensors --check io.npz
    """
    from sagan_deploy.optional import require

    require("torch", "export")
    require("safetensors", "export")
    from sagan_deploy.checkpoints.importing import import_opened, open_checkpoint
    from sagan_deploy.checkpoints.native import save_checkpoint
    from sagan_deploy.checkpoints.proof import prove, read_examples
    from sagan_deploy.checkpoints.settings import parse_settings
    from sagan_deploy.files import refuse_existing_file

    refuse_existing_file(out, force=force)
    values = parse_settings(_pairs(settings or []))
    opened = open_checkpoint(files, origin=origin, weights=values.get("weights"))
    imported = import_opened(opened, values)
    proof = None
    with progress_bars(quiet=quiet) as progress:
        if check is not None:
            examples = read_examples(check, imported.checkpoint.config)
            proof = prove(opened, imported, examples, progress=progress)
    written = proof is None or proof.passed
    if written:
        save_checkpoint(out, imported.checkpoint)
    if json:
        print_json({"path": str(out) if written else None, **imported.report.to_dict(), "proof": _facts(proof)})
    else:
        print_result(_table(imported, proof, out if written else None))
    if proof is not None and not written:
        raise CheckFailed(f"{proof.sentence()}. Nothing was written.")


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text} must be NAME=VALUE, for example norm_eps=1e-4")
        if name in pairs:
            raise ConfigError(f"--set {name} is given twice")
        pairs[name] = value
    return pairs


def _facts(proof: Proof | None) -> dict[str, Any] | None:
    if proof is None:
        return None
    return {
        "passed": proof.passed,
        "error": proof.error,
        "images": proof.images,
        "alternatives": [{"settings": a.settings, "error": a.error} for a in proof.alternatives[:5]],
    }


def _table(imported: ImportedCheckpoint, proof: Proof | None, out: Path | None) -> Any:
    from rich.markup import escape
    from rich.table import Table

    report = imported.report
    table = Table("", "", "", show_header=False, title=f"{report.title} ({report.origin})", title_justify="left")
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        ("detected", [(name, _text(value)) for name, value in report.detected.items()]),
        ("given", [(name, _text(value)) for name, value in report.given.items()]),
        ("configured", [(name, _text(value)) for name, value in report.configured.items()]),
        ("assumed", [(name, f"{_text(value)}: {why}") for name, (value, why) in report.assumed.items()]),
        ("check", [(name, text) for name, text in (_split(line) for line in report.check)]),
        ("proof", [("", proof.sentence())] if proof is not None else [("", _UNPROVEN)]),
        ("written", [("", str(out) if out is not None else "nothing")]),
    ]
    for group, rows in groups:
        for number, (name, text) in enumerate(rows):
            last = number == len(rows) - 1
            table.add_row("" if number else group, escape(name), escape(text), end_section=last)
    return table


_UNPROVEN = "none; save z, labels and images of the original once and give them with --check io.npz"


def _split(line: str) -> tuple[str, str]:
    name, colon, text = line.partition(": ")
    return (name, text) if colon else ("", line)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
