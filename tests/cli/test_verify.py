"""`sagan-deploy verify`, and the library call behind it."""

import dataclasses
import json
import math

import numpy as np
import pytest

from sagan_deploy.bundle.golden import GOLDEN_NAME, golden_bytes
from sagan_deploy.bundle.manifest import MANIFEST_NAME, HashedFile, Limits, Manifest
from sagan_deploy.errors import InputError
from sagan_deploy.files import sha256_bytes
from sagan_deploy.presets import PRESETS
from sagan_deploy.runtime import ort
from sagan_deploy.verify import default_limits, image_errors, rounding_layers, verify_bundle
from tests.tiny_models import CONFIG, UNCONDITIONAL, golden_of, make_bundle, plan_bytes, tiny_onnx


def rewrite(folder, change):
    """Replace the manifest by `change` of it, as somebody with all the tools would."""
    path = folder / MANIFEST_NAME
    path.write_text(change(Manifest.from_json(path.read_text())).to_json())


def swap_model(folder, payload, name="onnx/fp32.onnx"):
    """Another model in the place of `name`, with a manifest that agrees."""
    (folder / name).write_bytes(payload)

    def change(manifest):
        artifacts = tuple(
            dataclasses.replace(a, sha256=sha256_bytes(payload), size=len(payload)) if a.path == name else a
            for a in manifest.artifacts
        )
        return dataclasses.replace(manifest, artifacts=artifacts)

    rewrite(folder, change)


def cpu_replays(folder):
    return {r.file: r for r in verify_bundle(folder, device="cpu").replays}


@pytest.mark.parametrize("config", [CONFIG, UNCONDITIONAL])
@pytest.mark.parametrize("output", ["float", "uint8"])
def test_a_good_bundle_passes(tmp_path, config, output):
    result = verify_bundle(make_bundle(tmp_path / "b", config, output=output), device="cpu")
    assert result.passed
    assert {r.status for r in result.replays} == {"passed"}
    assert (result.files, result.images) == (4, 4)


def test_what_cannot_run_is_listed_with_its_reason(tmp_path):
    if "CUDAExecutionProvider" in ort.load_onnxruntime(None).get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    result = verify_bundle(make_bundle(tmp_path / "b", plan=plan_bytes()))
    missing = {(r.file, r.backend): r.reason for r in result.replays if r.status == "not_run"}
    assert set(missing) == {
        ("onnx/fp32.onnx", "onnxruntime-cuda"),
        ("onnx/fp16.onnx", "onnxruntime-cuda"),
        ("engines/sm_89.plan", "tensorrt"),
    }
    assert all(missing.values())
    assert result.passed


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_a_model_that_is_off_by_a_percent_fails(tmp_path, output):
    folder = make_bundle(tmp_path / "b", output=output)
    swap_model(folder, tiny_onnx(gain=1.02, output=output))
    replay = cpu_replays(folder)["onnx/fp32.onnx"]
    assert replay.status == "failed"
    assert replay.max_abs > replay.limits.max_abs
    assert "images are over the limit" in replay.reason


def test_half_precision_in_the_place_of_fp32_is_noticed(tmp_path):
    folder = make_bundle(tmp_path / "b")
    swap_model(folder, tiny_onnx(precision="fp16"))
    assert cpu_replays(folder)["onnx/fp32.onnx"].status == "failed"


def test_one_wrong_image_is_not_averaged_away(tmp_path):
    golden = golden_of(count=64)
    images = golden.images.copy()
    images[41, 2, 7, 7] += 3e-4
    folder = make_bundle(tmp_path / "b", golden=dataclasses.replace(golden, images=images))
    replay = cpu_replays(folder)["onnx/fp32.onnx"]
    assert (replay.status, replay.worst_image) == ("failed", 41)
    assert "1 of 64 images" in replay.reason


def test_nan_never_passes(tmp_path, monkeypatch):
    folder = make_bundle(tmp_path / "b")
    original = ort.OnnxRuntimeBackend.run

    def run(self, z, labels):
        images = original(self, z, labels)
        images[2] = np.nan
        return images

    monkeypatch.setattr(ort.OnnxRuntimeBackend, "run", run)
    replay = cpu_replays(folder)["onnx/fp32.onnx"]
    assert (replay.status, replay.worst_image) == ("failed", 2)
    assert math.isnan(replay.max_abs)


def test_truncation_instead_of_rounding_is_seen_in_8_bits(tmp_path, monkeypatch):
    folder = make_bundle(tmp_path / "b", output="uint8")
    golden = golden_of()
    codes = np.floor(golden.images.astype(np.float64).transpose(0, 2, 3, 1) * 127.5 + 127.5).astype(np.uint8)
    monkeypatch.setattr(ort.OnnxRuntimeBackend, "run", lambda self, z, labels: codes)
    assert cpu_replays(folder)["onnx/fp32.onnx"].status == "failed"


def test_the_manifest_may_bring_its_own_limits(tmp_path):
    folder = make_bundle(tmp_path / "b")

    def tighten(manifest):
        tight = tuple(dataclasses.replace(a, limits=Limits(1e-12, 1e-12)) for a in manifest.artifacts)
        return dataclasses.replace(manifest, artifacts=tight)

    rewrite(folder, tighten)
    replays = cpu_replays(folder)
    assert {r.status for r in replays.values()} == {"failed"}
    assert replays["onnx/fp32.onnx"].limits == Limits(1e-12, 1e-12)


def test_golden_images_that_lie(tmp_path):
    folder = make_bundle(tmp_path / "b")
    payload = golden_bytes(dataclasses.replace(golden_of(), images=golden_of().images * 0.99))
    (folder / GOLDEN_NAME).write_bytes(payload)
    rewrite(folder, lambda m: dataclasses.replace(m, golden=HashedFile(GOLDEN_NAME, sha256_bytes(payload))))
    assert {r.status for r in cpu_replays(folder).values()} == {"failed"}


def test_without_golden_images_nothing_has_passed(tmp_path):
    folder = make_bundle(tmp_path / "b")
    rewrite(folder, lambda m: dataclasses.replace(m, golden=None))
    result = verify_bundle(folder)
    assert not result.passed
    assert not result.failed
    assert result.unlisted == (GOLDEN_NAME,)


def test_limits_follow_from_precision_and_depth():
    shallow, deep = CONFIG, PRESETS["sagan128"].generator
    assert rounding_layers(deep) == 2 + 6 * 5 + 6 + 4
    for precision, roundoff in (("fp16", 2**-11), ("bf16", 2**-8)):
        assert default_limits(deep, precision).rel_l2 == pytest.approx(3 * roundoff * math.sqrt(42))
    ranked = [default_limits(deep, p) for p in ("fp32", "fp16", "bf16")]
    assert sorted(ranked, key=lambda limits: limits.rel_l2) == ranked
    assert default_limits(shallow, "fp32").rel_l2 < default_limits(deep, "fp32").rel_l2 < 2e-5


def test_errors_are_those_of_the_definition():
    reference = np.array([[[[3.0]], [[4.0]]], [[[0.0]], [[1.0]]]])
    images = np.array([[[[3.0]], [[4.5]]], [[[0.0]], [[np.inf]]]])
    rel_l2, max_abs = image_errors(images, reference)
    np.testing.assert_allclose(rel_l2, [0.1, np.inf])
    np.testing.assert_allclose(max_abs, [0.5, np.inf])


def test_command_passes(tmp_path, program):
    outcome = program("verify", make_bundle(tmp_path / "b"), "--quiet")
    assert outcome.code == 0
    assert outcome.err == ""
    assert "onnx/fp32.onnx" in outcome.out
    assert "passed" in outcome.out


def test_command_as_json(tmp_path, program):
    outcome = program("verify", make_bundle(tmp_path / "b"), "--json", "--device", "cpu")
    result = json.loads(outcome.out)
    assert result["passed"]
    assert result["replays"][0]["limits"]["max_abs"] == 1e-4


def test_command_fails_with_1(tmp_path, program):
    folder = make_bundle(tmp_path / "b")
    swap_model(folder, tiny_onnx(gain=1.02))
    outcome = program("verify", folder, "--quiet")
    assert outcome.code == 1
    assert outcome.err.startswith("sagan-deploy: ")
    assert outcome.err.count("\n") == 1
    assert "onnx/fp32.onnx with onnxruntime-cpu" in outcome.err


def test_command_says_3_when_nothing_could_run(tmp_path, program):
    folder = make_bundle(tmp_path / "b")
    rewrite(folder, lambda m: dataclasses.replace(m, golden=None))
    assert program("verify", folder, "--quiet").code == 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "folder"])
def test_command_says_4_for_damage(tmp_path, program, damage):
    folder = make_bundle(tmp_path / "b")
    path = folder / "onnx/fp16.onnx"
    payload = path.read_bytes()
    if damage == "flip":
        path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    elif damage == "truncate":
        path.write_bytes(payload[:100])
    elif damage == "delete":
        path.unlink()
    elif damage == "manifest":
        (folder / MANIFEST_NAME).write_text("{")
    else:
        folder = tmp_path / "nothing"
    outcome = program("verify", folder, "--quiet")
    assert outcome.code == 4
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1


def test_an_artifact_that_is_swapped_after_the_hashes_were_checked(tmp_path, monkeypatch):
    from sagan_deploy.bundle.bundle import Bundle

    folder = make_bundle(tmp_path / "b")
    (folder / "onnx/fp32.onnx").write_bytes(tiny_onnx(gain=1.02))
    monkeypatch.setattr(Bundle, "verify_hashes", lambda self, progress: 4)
    with pytest.raises(InputError, match="SHA-256"):
        verify_bundle(folder)
