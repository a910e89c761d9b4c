"""Which inference forms the algebra legs hold: those that the judged files are written in, each once."""

import dataclasses
from pathlib import Path

import pytest

from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.candidates import Candidate
from sagan_deploy.parity.compare import judge
from sagan_deploy.parity.legs import forms_of


def candidate(options, kind="onnx", form="inference"):
    step = {"step": "export", "form": form, **dataclasses.asdict(options)}
    layout = options.attention_layout
    return Candidate(
        Path("g"), kind, b"", options.precision, options.output, layout, "", provenance=({"step": "train"}, step)
    )


def test_files_of_one_form_share_a_leg_and_other_forms_have_their_own():
    single, half = InferenceOptions(), InferenceOptions("fp16", output="uint8")
    forms = forms_of([candidate(single), candidate(half), candidate(dataclasses.replace(half, output="float"))])
    assert {name: form.precision for name, form in forms.items()} == {
        "inference form, decomposed attention": "fp32",
        "inference form, fused attention": "fp16",
    }
    assert {form.output for form in forms.values()} == {"float"}


def test_one_layout_in_two_forms_is_told_apart_by_name():
    fused, half = InferenceOptions(attention="fused", conv="direct"), InferenceOptions("fp16")
    assert set(forms_of([candidate(fused), candidate(half)])) == {
        "inference form, fused attention, fp32: auto and direct",
        "inference form, fused attention, fp16: auto and auto",
    }


def test_a_plan_alone_and_files_that_do_not_tell_get_the_form_that_is_usual_for_them():
    assert list(forms_of([candidate(InferenceOptions("fp16"), kind="plan")])) == ["inference form, fused attention"]
    (form,) = forms_of([candidate(InferenceOptions(attention="fused"), form="training")]).values()
    assert form == InferenceOptions(attention="fused")


@pytest.mark.parametrize("broken", ["fp16", "fp32"])
def test_a_form_that_is_wrong_fails_its_own_leg_alone(broken, checkpoint, exported, tmp_path, monkeypatch):
    from sagan_deploy.parity import legs

    right = legs.to_inference

    def wrong(generator, options):
        form = right(generator, options)
        if options.precision == broken:
            form.stages[0].attention.output.data.mul_(1 + 1e-9)
        return form

    monkeypatch.setattr(legs, "to_inference", wrong)
    paths = [tmp_path / name for name in ("fp32", "fp16")]
    for path in paths:
        path.write_bytes(exported[path.name])
    found = {leg.name: leg.status for leg in judge(checkpoint, paths, count=2).legs}
    layout = {"fp32": "decomposed", "fp16": "fused"}
    failed = [name for name, status in found.items() if status == "failed"]
    assert failed == [f"inference form, {layout[broken]} attention"]
