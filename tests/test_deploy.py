"""Deploy: what passed becomes one whole bundle; what failed becomes a report and nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from sagan_deploy import deploy as module
from sagan_deploy.bundle.bundle import open_bundle, unlisted_files
from sagan_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from sagan_deploy.deploy import DeployOptions, deploy, golden_images
from sagan_deploy.errors import CheckFailed, ConfigError, InputError
from sagan_deploy.onnx_header import read_onnx_header
from sagan_deploy.runtime import load
from sagan_deploy.tuning import Trial, Tuned
from sagan_deploy.verify import verify_bundle
from tests import exports
from tests.generators import tiny_checkpoint

QUICK = DeployOptions(images=4, max_batch=8)


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_checkpoint(tmp_path_factory.mktemp("deploy") / "g.safetensors", tiny_checkpoint()))


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    return deploy(checkpoint, tmp_path_factory.mktemp("out") / "bundle", QUICK)


def test_the_bundle_is_whole_and_says_what_was_judged(made, checkpoint):
    bundle = open_bundle(made.folder)
    assert bundle.manifest == made.manifest
    assert not unlisted_files(bundle)
    verdicts = {artifact.path: artifact.verdict for artifact in bundle.manifest.artifacts}
    assert verdicts["onnx/generator.fp32.onnx"].status == verdicts["onnx/generator.fp16.onnx"].status == "passed"
    plan = next(artifact for artifact in bundle.manifest.artifacts if artifact.kind == "plan")
    assert plan.plan.fused_attention == 1
    if plan.verdict.status == "not_run":
        assert "GPU" in plan.verdict.reason
    assert bundle.manifest.checkpoint_sha256 == checkpoint.sha256
    assert bundle.manifest.class_names == ("class 0", "class 1", "class 2")
    assert str(made.folder.parent) not in (made.folder / "parity/report.json").read_text()


def test_production_draws_the_golden_images(made, checkpoint):
    assert verify_bundle(made.folder).passed
    golden = golden_images(checkpoint)
    with load(made.folder, device="cpu") as generator:
        np.testing.assert_allclose(generator(golden.z, golden.labels), golden.images, atol=1e-4)


def test_an_int8_bundle_is_judged_by_its_own_limits_and_has_a_plan(checkpoint, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    options = DeployOptions(precisions=("int8",), targets=("rtx-4090",), images=4, max_batch=8)
    made = deploy(checkpoint, tmp_path / "bundle", options)
    onnx, plan = made.manifest.artifacts
    assert (onnx.precision, plan.precision) == ("int8", "int8")
    assert onnx.verdict.status == "passed"
    assert 0.01 < onnx.limits.rel_l2 <= 0.1
    assert plan.limits == onnx.limits
    replays = {replay.file: replay for replay in verify_bundle(made.folder).replays}
    assert not any(replay.status == "failed" for replay in replays.values())


def test_mixed_and_calibrated_files_are_made_as_the_options_say(checkpoint, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    options = DeployOptions(
        precisions=("mixed", "int8"),
        float32=("tail",),
        calibration_latents=32,
        targets=("rtx-4090",),
        images=4,
        max_batch=8,
    )
    made = deploy(checkpoint, tmp_path / "bundle", options)
    mixed, int8, plan = made.manifest.artifacts
    assert (mixed.precision, int8.precision, plan.precision) == ("mixed", "int8", "mixed")
    assert {mixed.verdict.status, int8.verdict.status} == {"passed"}
    said = {
        name: read_onnx_header((made.folder / f"onnx/generator.{name}.onnx").read_bytes(), name).metadata
        for name in ("mixed", "int8")
    }
    assert json.loads(said["mixed"]["sagan_deploy.float32_parts"]) == ["tail"]
    assert json.loads(said["int8"]["sagan_deploy.provenance"])[-1]["calibration"]["latents"] == 32


def test_mixed_without_parts_is_plain_fp16_where_nothing_needs_float32_and_is_written_once(checkpoint, tmp_path):
    options = DeployOptions(precisions=("mixed", "fp16"), targets=(), images=2)
    made = deploy(checkpoint, tmp_path / "bundle", options)
    (artifact,) = made.manifest.artifacts
    assert (artifact.path, artifact.precision) == ("onnx/generator.fp16.onnx", "fp16")
    header = read_onnx_header((made.folder / artifact.path).read_bytes(), artifact.path)
    step = json.loads(header.metadata["sagan_deploy.provenance"])[-1]
    assert (step["step"], step["parts"]) == ("float32 parts", [])


def test_tuning_decides_the_form_of_the_float32_file_alone(checkpoint, tmp_path, monkeypatch):
    asked = []

    def tune(checkpoint, options, progress):
        asked.append(options.precision)
        chosen = dataclasses.replace(options, upsample_conv="plain")
        return Tuned(module.export_generator(checkpoint, chosen), (Trial("plain", "auto", 1.5, "kept"),), False)

    monkeypatch.setattr(module, "tune", tune)
    options = DeployOptions(precisions=("fp32", "fp16"), targets=(), images=2, tune=True)
    made = deploy(checkpoint, tmp_path / "bundle", options)
    assert asked == ["fp32"]
    assert [trial.in_words for trial in made.trials] == ["    1.500 ms  plain, auto: kept"]
    header = read_onnx_header((made.folder / "onnx/generator.fp32.onnx").read_bytes(), "fp32")
    assert json.loads(header.metadata["sagan_deploy.provenance"])[-1]["upsample_conv"] == "plain"


def broken_export(checkpoint, options, **rest):
    """An exporter that loses a tenth of γ."""
    generator = checkpoint.generator()
    generator.stages[0].attention.gamma.mul_(0.9)
    wrong = dataclasses.replace(checkpoint, state=generator.state_dict())
    return exports.export_once(wrong, options, **rest)


def test_what_fails_parity_becomes_no_bundle_but_a_report(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "export_generator", broken_export)
    with pytest.raises(CheckFailed, match=r"generator\.fp32\.onnx.*bundle-failed"):
        deploy(checkpoint, tmp_path / "bundle", DeployOptions(precisions=("fp32",), targets=(), images=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-failed"]
    assert (tmp_path / "bundle-failed" / "report.html").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_in_the_middle_leaves_nothing(checkpoint, tmp_path, monkeypatch, error):
    def interrupted(*_, **__):
        raise error

    monkeypatch.setattr(module, "judge", interrupted)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        deploy(checkpoint, tmp_path / "bundle", DeployOptions(precisions=("fp32",), targets=()))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_kept_without_force(made, checkpoint):
    before = (made.folder / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        deploy(checkpoint, made.folder, QUICK)
    assert (made.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        {"precisions": ()},
        {"precisions": ("fp4",)},
        {"opt_batch": 9, "max_batch": 8},
        {"precisions": ("fp16",), "tune": True},
    ],
)
def test_absurd_options_are_refused(options):
    with pytest.raises(ConfigError):
        DeployOptions(**options)
