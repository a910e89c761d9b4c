"""The published schema, held to the dataclasses, to what is really written, and to nonsense that it must refuse."""

import copy
import json
import math

import pytest
from jsonschema import Draft202012Validator, ValidationError

from sagan_deploy.parity.report import SCHEMA_VERSION
from sagan_deploy.reports.json_report import to_json
from sagan_deploy.reports.schema import derived, published, to_text
from tests.reports.made_up import hostile, leg, mixed, report
from tests.reports.made_up_evidence import full

SCHEMA = json.loads(published())
VALIDATOR = Draft202012Validator(SCHEMA)


def written(found):
    return json.loads(to_json(found))


def test_it_is_a_schema_and_the_one_that_the_dataclasses_ask_for():
    Draft202012Validator.check_schema(SCHEMA)
    assert published() == to_text(), "run: python -m sagan_deploy.reports.schema > sagan_deploy/reports/*.schema.json"
    assert SCHEMA["properties"]["schema"]["const"] == SCHEMA_VERSION


@pytest.mark.parametrize("make", [report, mixed, hostile, full], ids=lambda make: make.__name__)
def test_reports_keep_it(make):
    VALIDATOR.validate(written(make()))


def test_numbers_that_json_lacks_keep_it_and_come_back():
    found = written(full())
    values = [gate["margin"] for one in found["legs"] for gate in one["gates"]]
    values += [value for one in found["legs"] if one["images"] for value in one["images"]["measures"]["rel_l2"]]
    assert "NaN" in values
    assert all(isinstance(float(value), float) for value in values)
    assert sum(math.isnan(float(value)) for value in values) == 2


def broken(change):
    found = copy.deepcopy(written(full()))
    change(found)
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("seed"),
        lambda r: r.update(schema=SCHEMA_VERSION + 1),
        lambda r: r.update(passed="yes"),
        lambda r: r.update(verdict="fine"),
        lambda r: r["legs"][0].update(status="maybe"),
        lambda r: r["legs"][0]["gates"][0].update(value="small"),
        lambda r: r["legs"][0]["gates"][0].update(value=None),
        lambda r: r["legs"][0]["gates"][0].pop("margin"),
        lambda r: r["legs"][1]["gates"][3].update(pixel=[1, 2]),
        lambda r: r["legs"][1]["gates"][3].update(pixel=[1, 2, 3, 4]),
        lambda r: r["legs"][1]["images"]["code_histogram"].update(many=3),
        lambda r: r["legs"][1]["images"]["measures"].update(rel_l2=3),
        lambda r: r["legs"][1]["stages"][0].pop("path"),
        lambda r: r["legs"][1]["ranges"]["rows"][0].update(logits="yes"),
        lambda r: r["cases"].update(normal="many"),
    ],
)
def test_nonsense_does_not(change):
    with pytest.raises(ValidationError):
        VALIDATOR.validate(broken(change))


def test_what_is_written_and_what_is_described_are_the_same_names():
    found = written(full())
    assert set(found) == set(SCHEMA["required"]) == set(SCHEMA["properties"])
    definitions = SCHEMA["$defs"]
    assert set(found["legs"][0]) == set(definitions["Leg"]["properties"])
    assert set(found["legs"][0]["gates"][0]) == set(definitions["Gate"]["properties"])
    assert all(definition.get("description") for definition in definitions.values())
    assert derived() == derived()


def test_a_bare_leg_keeps_it():
    VALIDATOR.validate(written(report(leg("not_run", path=None))))
