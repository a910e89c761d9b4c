"""Judges hundreds of correct files: ``python -m tests.parity.mutations.false_alarms [--cache DIR] [--seeds N]``.

Every kind of small generator, the presets, and the networks of public implementations, in every precision and with
several seeds of their weights; each seed also has latents of its own. Writes false_alarms.json beside this file, which
`tests.parity.mutations.table` turns into a part of samples/what-parity-catches.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sagan_deploy.checkpoints import import_checkpoint
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.environment import tool_versions
from sagan_deploy.export import export_generator
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.report import Leg
from sagan_deploy.presets import preset
from tests.checkpoints.cases import NAMES, fixture
from tests.checkpoints.test_import_fixtures import TWINS
from tests.generators import CONFIGS, tiny_checkpoint
from tests.parity.mutations.networks import with_weights
from tests.parity.mutations.table import STUDY

FORMATS = (("fp32", "float"), ("fp16", "float"), ("bf16", "float"), ("fp32", "uint8"), ("fp16", "uint8"))
_EIGHT_BITS = ("sagan", "biggan")  # of the small ones; the head is the same in all


@dataclass(frozen=True)
class Part:
    """Networks that are judged alike."""

    what: str
    names: Sequence[str]
    formats: Sequence[tuple[str, str]]
    seeds: int
    count: int

    def checkpoint(self, name: str, seed: int) -> Checkpoint:
        """A network of this part with weights of that seed."""
        if name in NAMES:
            case = fixture(name)
            return import_checkpoint(case.files, settings=case.settings).checkpoint
        return tiny_checkpoint(CONFIGS[name] if name in CONFIGS else preset(name).generator, seed)


def parts(seeds: int) -> list[Part]:
    """What is judged."""
    floats, big = FORMATS[:3], max(1, seeds // 3)
    return [
        Part("every kind of small generator", [*CONFIGS], floats, seeds, 8),
        Part("two of them in 8 bits", _EIGHT_BITS, FORMATS[3:], seeds, 8),
        Part("sagan32", ["sagan32"], FORMATS, big, 16),
        Part("sagan64", ["sagan64"], FORMATS, 1, 4),
        Part("networks of public implementations", [name for name in NAMES if name not in TWINS], FORMATS[:2], 1, 6),
    ]


def files(part: Part, name: str, seed: int, checkpoint: Checkpoint, folder: Path, cache: Path) -> Iterator[Path]:
    """The correct files of one network: exported once, and with the weights of every other seed put in."""
    for precision, output in part.formats:
        options = InferenceOptions(precision=precision, output=output)
        kept = cache / f"{name}.{precision}.{output}.onnx"
        if not kept.is_file():
            first = checkpoint if seed == 0 else part.checkpoint(name, 0)
            kept.write_bytes(export_generator(first, options).payload)
        path = folder / f"{name}.{seed}.{precision}.{output}.onnx"
        path.write_bytes(with_weights(kept.read_bytes(), checkpoint, options))
        yield path


def study(seeds: int, cache: Path) -> dict[str, Any]:
    """Judge everything: counts by part, margins by rule and precision."""
    legs: list[tuple[str, Leg]] = []
    done = []
    for part in parts(seeds):
        before = len(legs)
        for name in part.names:
            for seed in range(part.seeds):
                legs += _judged(part, name, seed, cache)
        own = [leg for _, leg in legs[before:]]
        failed = [f"{leg.name}: {leg.reason}" for leg in own if leg.status != "passed"]
        print(f"{part.what}: {len(own)} files, {len(failed)} failed", *failed, sep="\n  ", flush=True)
        precisions = [p if o == "float" else f"{p} with 8 bits" for p, o in part.formats]
        done.append(
            {
                "networks": part.what,
                "precisions": precisions,
                "seeds": part.seeds,
                "files": len(own),
                "failed": len(failed),
            }
        )
    versions = tool_versions()
    return {
        "runs": len(legs),
        "failures": sum(leg.status != "passed" for _, leg in legs),
        "command": f"python -m tests.parity.mutations.false_alarms --seeds {seeds}",
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "numpy") if name in versions
        ),
        "parts": done,
        "margins": margins(legs),
    }


def _judged(part: Part, name: str, seed: int, cache: Path) -> list[tuple[str, Leg]]:
    checkpoint = part.checkpoint(name, seed)
    with tempfile.TemporaryDirectory() as folder:
        made = list(files(part, name, seed, checkpoint, Path(folder), cache))
        report = judge(checkpoint, made, seed=seed, count=part.count)
    formats = [p if o == "float" else f"{p}, 8 bits" for p, o in part.formats]
    algebra = [leg for leg in report.legs if leg.path is None]
    assert all(leg.status == "passed" for leg in algebra), (name, seed)
    return list(zip(formats, (leg for leg in report.legs if leg.path is not None), strict=True))


def margins(legs: Sequence[tuple[str, Leg]]) -> list[dict[str, Any]]:
    """For every rule with a limit that is not zero: the smallest margin of each file, over all files."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for precision, leg in legs:
        for gate in leg.gates:
            if gate.limit != 0 and not gate.rule.startswith("hard."):
                found.setdefault((gate.rule, precision), []).append((gate.margin, leg.name))
    lines = []
    for (rule, precision), entries in sorted(found.items()):
        values = np.array([min(margin, 1.0) if "psnr" not in rule else margin for margin, _ in entries])
        finite = values[np.isfinite(values)]
        smallest, name = min(entries)
        summary = {"smallest": smallest, "fifth": np.quantile(finite, 0.05), "median": np.median(finite)}
        numbers = {key: round(float(value), 4) for key, value in summary.items()}
        network, seed = name.split(".")[:2]
        lines.append(
            {
                "rule": rule,
                "precision": precision,
                "files": len(entries),
                **numbers,
                "closest": f"{network}, seed {seed}",
            }
        )
    return lines


def main() -> int:
    """Write the results; 1 when a correct file failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for exported files, for a second run")
    parser.add_argument("--seeds", type=int, default=6, help="how many seeds of the small networks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        found = study(arguments.seeds, cache)
    STUDY.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{found['runs']} correct files, {found['failures']} failed; {STUDY}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
