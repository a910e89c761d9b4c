"""Runs the catalogue through `judge`: the files of a network in one call, every wrong folding in one of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import onnx

from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.model.inference import to_inference
from sagan_deploy.parity import compare, legs
from sagan_deploy.parity.report import Gate, Leg
from tests.parity.mutations.catalogue import HIDDEN, REFUSED, Mutation
from tests.parity.mutations.networks import LEGS, Network, with_weights

COUNT = 8


@dataclass(frozen=True)
class Verdict:
    """What a leg said about a mutation: the gates that failed, or that the file does not run."""

    mutation: Mutation
    leg: str
    failed: tuple[Gate, ...]
    refused: str = ""

    @property
    def rules(self) -> tuple[str, ...]:
        """What saw the mutation."""
        return (REFUSED,) if self.refused else tuple(gate.rule for gate in self.failed) or (HIDDEN,)

    @property
    def as_expected(self) -> bool:
        """Whether the catalogue says the same."""
        return self.mutation.sees[self.leg] in self.rules


def run(
    mutations: Iterable[Mutation], networks: Mapping[str, Network], folder: Path, *, algebra: bool = True
) -> list[Verdict]:
    """The verdicts on all mutations, at all legs that the catalogue names, in its order."""
    mutations = list(mutations)
    found: dict[tuple[int, str], Verdict] = {}
    for name, network in networks.items():
        own = [(index, mutation) for index, mutation in enumerate(mutations) if mutation.network == name]
        if not own:
            continue
        files = {folder / f"{index}.{leg}.onnx": (index, m, leg) for index, m in own for leg in m.sees if leg in LEGS}
        for path, (_, mutation, leg) in files.items():
            path.write_bytes(mutated(mutation, network, leg))
        report = compare.judge(network.checkpoint, list(files), count=COUNT)
        by_path = {leg.path: leg for leg in report.legs}
        for path, (index, mutation, leg) in files.items():
            found[index, leg] = _verdict(mutation, leg, by_path[str(path)])
        if algebra:
            found |= {(i, "algebra"): _folding(m, network) for i, m in own if "algebra" in m.sees}
    return [found[index, leg] for index, m in enumerate(mutations) for leg in m.sees if (index, leg) in found]


def mutated(mutation: Mutation, network: Network, leg: str) -> bytes:
    """The file with the mistake in it; a file that is as before is an error of the catalogue."""
    payload = network.files[leg]
    if mutation.weights is not None:
        changed = with_weights(payload, mutation.weights(network.checkpoint), LEGS[leg])
    elif mutation.file is not None:
        model = onnx.load_from_string(payload)
        mutation.file(model)
        changed = model.SerializeToString(deterministic=True)
    else:
        return payload
    assert changed != payload, f"{mutation.name} changes nothing at {leg}"
    return changed


def _folding(mutation: Mutation, network: Network) -> Verdict:
    """The algebra leg when the folding itself makes the mistake, on whatever network it is given."""

    def wrong_form(_generator, options):
        return to_inference(_mutated_checkpoint(mutation, network.checkpoint).generator(), options)

    with mock.patch.object(legs, "to_inference", wrong_form):
        report = compare.judge(network.checkpoint, [], count=2)
    return _verdict(mutation, "algebra", report.legs[0])


def _mutated_checkpoint(mutation: Mutation, checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint if mutation.weights is None else mutation.weights(checkpoint)


def _verdict(mutation: Mutation, name: str, leg: Leg) -> Verdict:
    assert leg.status in ("passed", "failed"), (mutation.name, name, leg.reason)
    failed = leg.failed_gates
    assert (leg.status == "failed") == bool(failed or not leg.gates), (mutation.name, name)
    return Verdict(mutation, name, failed, leg.reason if not leg.gates else "")


def unexpected(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """What the catalogue says otherwise, in words."""
    for verdict in verdicts:
        if not verdict.as_expected:
            expected = verdict.mutation.sees[verdict.leg]
            yield f"{verdict.mutation.name} at {verdict.leg}: expected {expected}, found {', '.join(verdict.rules)}"
