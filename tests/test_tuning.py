"""Tuning: the fastest form that parity passes is kept, a refused one is not, and times are measured once."""

import json

import pytest

from sagan_deploy import tuning
from sagan_deploy.errors import CheckFailed, ConfigError
from sagan_deploy.model.inference import InferenceOptions
from tests.generators import tiny_checkpoint

TIMES = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0]  # in the order of the variants: differences are fastest, with Winograd next


@pytest.fixture
def exports(monkeypatch):
    """Stands in for exporting: what would be exported, as the text of its options."""
    monkeypatch.setattr(tuning, "export_generator", lambda checkpoint, options, progress: options)


def test_the_fastest_that_passes_is_kept_and_times_come_from_the_cache(exports, monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(tuning, "_times", lambda *_: measured.append(1) or TIMES)
    monkeypatch.setattr(tuning, "_refusal", lambda c, o, p: "form.onnx: failed" if o.conv == "direct" else "")
    checkpoint = tiny_checkpoint()
    tuned = tuning.tune(checkpoint, InferenceOptions(), cache=tmp_path)
    assert (tuned.exported.upsample_conv, tuned.exported.conv) == ("differences", "winograd")
    verdicts = [trial.verdict for trial in tuned.trials]
    assert verdicts == ["form.onnx: failed", "kept", "slower", "slower", "slower", "slower"]
    assert [trial.median_ms for trial in tuned.trials] == sorted(TIMES)
    again = tuning.tune(tiny_checkpoint(seed=1), InferenceOptions(), cache=tmp_path)
    assert (tuned.cached, again.cached, len(measured)) == (False, True, 1)
    tuning.tune(checkpoint, InferenceOptions(), batch=2, cache=tmp_path)
    assert len(measured) == 2
    for file in tmp_path.iterdir():
        file.write_text(json.dumps([1.0]))  # of another version, or damaged
    assert not tuning.tune(checkpoint, InferenceOptions(), cache=tmp_path).cached


def test_nothing_is_kept_when_parity_refuses_all(exports, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "_times", lambda *_: TIMES)
    monkeypatch.setattr(tuning, "_refusal", lambda *_: "form.onnx: failed")
    with pytest.raises(CheckFailed, match="none of the forms"):
        tuning.tune(tiny_checkpoint(), InferenceOptions(), cache=tmp_path)


def test_half_precision_is_not_tuned_on_a_cpu(tmp_path):
    with pytest.raises(ConfigError, match="computes fp16 in float32"):
        tuning.tune(tiny_checkpoint(), InferenceOptions(precision="fp16"), cache=tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_real_run_times_every_form_and_judges_the_fastest(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_VARIANTS", tuning._VARIANTS[:2])
    tuned = tuning.tune(tiny_checkpoint(), InferenceOptions(), threads=1, duration=0.02, cache=tmp_path)
    assert sorted(trial.verdict for trial in tuned.trials) == ["kept", "slower"]
    assert json.loads(tuned.exported.metadata["sagan_deploy.provenance"])[-1]["upsample_conv"] == (
        tuned.trials[0].upsample_conv
    )
