"""`sagan-deploy parity`: hold files against PyTorch."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagan_deploy.cli.talk import (
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    print_result,
    progress_bars,
    say,
)
from sagan_deploy.errors import CheckFailed, ConfigError, MissingError

if TYPE_CHECKING:
    from sagan_deploy.parity.baseline import Comparison
    from sagan_deploy.parity.report import ParityReport

_MARKER = "report.json"


_Distribution = Annotated[
    int, typer.Option(min=0, help="Compare distributions too, over so many latents (at least 16).")
]
_Features = Annotated[
    Path | None, typer.Option(help="An ONNX feature extractor for --distribution; by default a local one.")
]
_SaveBaseline = Annotated[
    Path | None, typer.Option(help="A file to write: this report as JSON, to hold later builds against.")
]
_AgainstBaseline = Annotated[
    Path | None, typer.Option(help="A saved report: exit with 1 when a value came closer to its limit since.")
]
_MaxRegression = Annotated[
    float, typer.Option(min=0.0, help="By how much of its limit a value may come closer to it since the baseline.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(parity)


def _list_rules(wanted: bool) -> None:
    if wanted:
        from sagan_deploy.reports.console import rules_table

        print_result(rules_table())
        raise typer.Exit


def parity(
    checkpoint: Annotated[Path, typer.Argument(help="The generator checkpoint (.safetensors) that is right.")],
    files: Annotated[list[Path], typer.Argument(help="ONNX files and plans made from it.")],
    report: Annotated[
        Path | None, typer.Option(help="A folder to make, for report.json, report.html and junit.xml.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A parity policy (TOML) that changes limits.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Latents that are judged; by default by image size.")] = None,
    distribution: _Distribution = 0,
    features: _Features = None,
    save_baseline: _SaveBaseline = None,
    against_baseline: _AgainstBaseline = None,
    max_regression: _MaxRegression = 0.1,
    device: Annotated[
        str | None, typer.Option(help="cuda or cuda:1: ONNX files run there as they are; default: emulated on the CPU.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first file that fails.")] = False,
    list_rules: Annotated[
        bool, typer.Option("--list-rules", callback=_list_rules, is_eager=True, help="Print the ids of all rules.")
    ] = False,
    require_all: Annotated[bool, typer.Option("--require-all", help="Exit with 3 when a file could not run.")] = False,
    seed: SeedOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Hold ONNX files and plans against what PyTorch draws in float64, gate by gate.

    Exits with 1 when a file draws something else, 3 when none could run here.

    Example: sagan-deploy parity generator.safetensors generator.fp16.onnx --report parity
    """
    from sagan_deploy.checkpoints.native import load_checkpoint
    from sagan_deploy.files import refuse_existing, refuse_existing_file
    from sagan_deploy.parity.baseline import baseline_legs, compare_with_baseline
    from sagan_deploy.parity.compare import judge
    from sagan_deploy.parity.policy import Policy, load_policy

    if report is not None:
        refuse_existing(report, marker=_MARKER, force=force)
    if save_baseline is not None:
        refuse_existing_file(save_baseline, force=force)
    if against_baseline is not None:
        baseline_legs(against_baseline)  # a slip of the pen is told before the work, not after it
    if features is not None and not distribution:
        raise ConfigError("--features is for --distribution; name how many images to compare, like --distribution 256")
    chosen = load_policy(policy) if policy is not None else Policy()
    options: dict[str, Any] = {"seed": seed, "count": count, "fail_fast": fail_fast, "keep_images": report is not None}
    options |= {"distribution": distribution, "features": features, "device": device}
    again: dict[str, object] = {"--seed": seed, "--count": count, "--policy": policy, "--report": report}
    again |= {"--distribution": distribution or None, "--features": features, "--device": device}
    with progress_bars(quiet=quiet) as progress:
        found = judge(load_checkpoint(checkpoint), files, chosen, progress=progress, **options)
    found = dataclasses.replace(found, command=_command(checkpoint, files, again))
    _write(found, report, save_baseline, force=force, quiet=quiet)
    drift = None if against_baseline is None else compare_with_baseline(found, against_baseline, max_regression)
    _show(found, drift, json=json, advice=(str(checkpoint), list(map(str, files)), None if not report else str(report)))
    _decide(found, drift, require_all=require_all)


def _write(found: ParityReport, report: Path | None, baseline: Path | None, *, force: bool, quiet: bool) -> None:
    """The report's folder and the baseline, where they are wanted."""
    from sagan_deploy.files import new_folder, write_text
    from sagan_deploy.reports.folder import write_reports
    from sagan_deploy.reports.json_report import to_json

    if report is not None:
        with new_folder(report, marker=_MARKER, force=force) as folder:
            write_reports(folder, found)
        say(f"the report lies in {report}", quiet=quiet)
    if baseline is not None:
        write_text(baseline, to_json(found))
        say(f"the baseline lies in {baseline}", quiet=quiet)


def _show(
    found: ParityReport, drift: Comparison | None, *, json: bool, advice: tuple[str, list[str], str | None]
) -> None:
    """Tables and the next command, or JSON, on stdout; on GitHub also annotations and a summary."""
    from sagan_deploy.reports.console import parity_table
    from sagan_deploy.reports.drift import drift_table
    from sagan_deploy.reports.json_report import to_json
    from sagan_deploy.reports.overview import next_step

    if json:
        typer.echo(to_json(found), nl=False)
    else:
        print_result(parity_table(found))
        if drift is not None:
            print_result(drift_table(drift))
        # Not through the table's printer, which folds lines: this one is there to be copied.
        typer.echo(f"next: {next_step(found, *advice)}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _tell_github(found, drift, to_stderr=json)


def _command(checkpoint: Path, files: list[Path], options: Mapping[str, object]) -> str:
    """The line that makes the same report again."""
    given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    return shlex.join(["sagan-deploy", "parity", str(checkpoint), *map(str, files), *given])


def _decide(found: ParityReport, drift: Comparison | None, *, require_all: bool) -> None:
    failed = ", ".join(leg.name for leg in found.legs if leg.status == "failed")
    if failed:
        raise CheckFailed(f"parity failed for {failed}")
    if not found.passed:
        raise MissingError("nothing could be judged here; the table says why")
    if require_all and found.not_run:
        reasons = "; ".join(f"{leg.name}: {leg.reason}" for leg in found.not_run)
        raise MissingError(f"--require-all: not everything could run here: {reasons}")
    if drift is not None and drift.worse:
        from sagan_deploy.reports.drift import regression

        raise CheckFailed(regression(drift.worse[0], drift.path))


def _tell_github(found: ParityReport, drift: Comparison | None, *, to_stderr: bool) -> None:
    """Annotations (GitHub reads them on both streams, and JSON must stay alone on stdout) and the run's summary."""
    from sagan_deploy.reports.github import annotation_lines, summary

    for line in annotation_lines(found, drift):
        typer.echo(line, err=to_stderr)
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if target:
        try:
            # All steps of a job share this file, which the runner made: it is appended to, never replaced.
            with Path(target).open("a", encoding="utf-8") as stream:
                stream.write(summary(found, drift))
        except OSError as error:
            say(f"the summary could not be added to {target}: {error.strerror or error}")
