"""Every mistake in the catalogue is caught by the leg and rule that it names; the document says the same."""

import dataclasses
import json

import onnx
import pytest

from sagan_deploy.export import export_generator
from sagan_deploy.parity.compare import judge
from tests.generators import tiny_checkpoint
from tests.parity.mutations.catalogue import CATALOGUE, HIDDEN, RIGHT
from tests.parity.mutations.networks import LEGS, networks, with_weights
from tests.parity.mutations.suite import COUNT, mutated, run, unexpected
from tests.parity.mutations.table import DOCUMENT, STUDY, rows, study, without_numbers


@pytest.fixture(scope="session")
def made(checkpoint, exported):
    return networks(sagan=(checkpoint, exported))


@pytest.fixture(scope="session")
def verdicts(made, tmp_path_factory):
    return run(CATALOGUE, made, tmp_path_factory.mktemp("mutations"))


def test_every_mutation_is_seen_where_the_catalogue_says(verdicts):
    assert list(unexpected(verdicts)) == []


def test_every_mutation_is_judged_at_every_leg_that_it_names(verdicts):
    assert len(verdicts) == sum(len(mutation.sees) for mutation in CATALOGUE) > 150


def test_nothing_escapes_all_legs():
    escaped = [mutation.name for mutation in CATALOGUE if not mutation.caught and mutation not in RIGHT]
    assert escaped == []
    assert all(rule == HIDDEN for mutation in RIGHT for rule in mutation.sees.values())


def test_an_expectation_can_be_wrong(made, tmp_path):
    """The suite says so when a leg sees what it should not, and when it sees nothing."""
    right, wrong = RIGHT[0], CATALOGUE[0]
    swapped = [
        dataclasses.replace(right, sees={"fp32": "tensor.rel_l2"}),
        dataclasses.replace(wrong, sees={"fp32": HIDDEN, "algebra": HIDDEN}),
    ]
    assert len(list(unexpected(run(swapped, made, tmp_path)))) == 3


def test_a_mutation_that_changes_nothing_is_an_error(made):
    idle = dataclasses.replace(CATALOGUE[0], weights=lambda checkpoint: checkpoint)
    with pytest.raises(AssertionError, match="changes nothing"):
        mutated(idle, made["sagan"], "fp32")


def test_weights_put_into_a_file_give_the_file_that_an_export_gives(checkpoint, exported):
    for leg, payload in exported.items():
        assert with_weights(payload, checkpoint, LEGS[leg]) == payload, leg
    other = dataclasses.replace(tiny_checkpoint(seed=3), sha256=checkpoint.sha256)
    expected = onnx.load_from_string(export_generator(other).payload)
    found = onnx.load_from_string(with_weights(exported["fp32"], other, LEGS["fp32"]))
    assert found.graph == expected.graph


@pytest.mark.parametrize("seed", [1, 2])
def test_right_files_of_other_weights_pass(checkpoint, exported, tmp_path, seed):
    """A part of the study of false alarms, whose results the document has."""
    other = dataclasses.replace(tiny_checkpoint(seed=seed), sha256=checkpoint.sha256)
    paths = [tmp_path / f"{leg}.onnx" for leg in LEGS]
    for path, leg in zip(paths, LEGS, strict=True):
        path.write_bytes(with_weights(exported[leg], other, LEGS[leg]))
    report = judge(other, paths, seed=seed, count=COUNT)
    assert report.passed, [leg.reason for leg in report.legs]


def test_the_study_found_no_false_alarm():
    found = json.loads(STUDY.read_text())
    assert found["runs"] >= 200
    assert found["failures"] == 0
    assert sum(part["files"] for part in found["parts"]) == found["runs"]
    assert study(found) == DOCUMENT.read_text().splitlines()[-len(study(found)) :]


def test_the_document_has_these_verdicts(verdicts):
    """Numbers differ in the last digits from machine to machine; which rule fails where does not."""
    assert without_numbers(DOCUMENT.read_text()) == [line for line in rows(verdicts, numbers=False) if line]
