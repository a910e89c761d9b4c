"""Writes samples/what-parity-catches.md: ``python -m tests.parity.mutations.table [--cache DIR]``.

Every number in it was found by the run that wrote it; the part on false alarms comes from
`tests.parity.mutations.false_alarms`, which takes longer and leaves its results beside this file.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.parity.mutations.catalogue import CATALOGUE, GROUPS, HIDDEN, REFUSED
from tests.parity.mutations.networks import Network, networks
from tests.parity.mutations.suite import Verdict, run, unexpected

DOCUMENT = Path(__file__).parents[3] / "samples" / "what-parity-catches.md"
STUDY = Path(__file__).with_name("false_alarms.json")
LEGS = ("algebra", "fp32", "fp16", "uint8")

_INTRODUCTION = """\
# What parity catches

Written by `python -m tests.parity.mutations.table`; the tests hold its verdicts against a run of their own. Each line
is one mistake made on purpose in an exported file of a small network, or in the folding that made it, and what
`sagan-deploy parity` says about it at each leg:

- *algebra*: the mistake is in `to_inference`, judged in float64 against the training form;
- *fp32*: the float32 file in ONNX Runtime;
- *fp16*: the float16 file with true rounding after every operation;
- *uint8*: the float32 file that gives out 8-bit codes.

A cell names the rule that fails, its value and its limit. *hidden* means that the leg passes: what the mistake moves
is less than what the leg's own rounding may move, which is why there is more than one leg. An empty cell was not run:
the mistake does not exist there.

Networks:
"""


def rows(verdicts: Iterable[Verdict], *, numbers: bool = True) -> list[str]:
    """The lines of all tables, by group."""
    by_mutation: dict[int, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_mutation.setdefault(id(verdict.mutation), {})[verdict.leg] = verdict
    lines = []
    for title, group in GROUPS.items():
        lines += ["", f"## {title}", "", "| mistake | network | " + " | ".join(LEGS) + " |", "|---" * 6 + "|"]
        for mutation in group:
            found = by_mutation.get(id(mutation), {})
            cells = [_cell(found[leg], numbers=numbers) if leg in found else "" for leg in LEGS]
            name = f"{mutation.name} ({mutation.note})" if mutation.note else mutation.name
            lines.append(f"| {name} | {mutation.network} | " + " | ".join(cells) + " |")
    return lines


def _cell(verdict: Verdict, *, numbers: bool) -> str:
    expected = verdict.mutation.sees[verdict.leg]
    rule = expected if expected in verdict.rules else verdict.rules[0]
    if rule in (HIDDEN, REFUSED):
        return "passes" if rule == HIDDEN and not verdict.mutation.caught else rule
    gate = next(gate for gate in verdict.failed if gate.rule == rule)
    sign = "<" if gate.at_least else ">"
    return f"`{rule}`" + (f" {gate.value:.2g} {sign} {gate.limit:.2g}" if numbers else "")


def without_numbers(text: str) -> list[str]:
    """The lines of a document's tables as `rows` gives them without numbers."""
    tables = text.partition("\n## False alarms")[0]
    lines = [line for line in tables.splitlines() if line.startswith(("|", "## "))]
    return [re.sub(r"(`[a-z0-9_.]+`) \S+ [<>] \S+ \|", r"\1 |", line) for line in lines]


def study(found: Mapping[str, Any]) -> list[str]:
    """The part on correct files."""
    lines = [
        "",
        "## False alarms",
        "",
        f"{found['runs']} correct files were judged, {found['failures']} failed. Written by "
        f"`{found['command']}` with {found['versions']}.",
        "",
        "| networks | precisions | seeds of the weights | files | failed |",
        "|---|---|---|---|---|",
    ]
    for part in found["parts"]:
        counts = " | ".join(str(part[key]) for key in ("seeds", "files", "failed"))
        lines.append(f"| {part['networks']} | {', '.join(part['precisions'])} | {counts} |")
    lines += [
        "",
        "Margins are shares of the limit that were left: 0 is on the limit, 1 is no error at all.",
        "",
        "| rule | precision | files | smallest margin | 5th percentile | median | the closest |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in found["margins"]:
        numbers = " | ".join(f"{entry[key]:.2f}" for key in ("smallest", "fifth", "median"))
        lines.append(
            f"| `{entry['rule']}` | {entry['precision']} | {entry['files']} | {numbers} | {entry['closest']} |"
        )
    return lines


def document(made: Mapping[str, Network], verdicts: Sequence[Verdict]) -> str:
    """The whole text."""
    names = [f"- *{name}*: {network.what}." for name, network in made.items()]
    lines = [_INTRODUCTION, *names, *rows(verdicts)]
    if STUDY.is_file():
        lines += study(json.loads(STUDY.read_text()))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the whole catalogue and write the document; 1 when a leg says otherwise than the catalogue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for exported files, for a second run")
    arguments = parser.parse_args()
    made = networks(arguments.cache)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = run(CATALOGUE, made, Path(folder))
    DOCUMENT.write_text(document(made, verdicts))
    wrong = list(unexpected(verdicts))
    print("\n".join([*wrong, f"{DOCUMENT}: {len(CATALOGUE)} mistakes, {len(verdicts)} verdicts"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
