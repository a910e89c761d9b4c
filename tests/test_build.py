"""Plans from our own ONNX models, with their sidecars, and from those of others. Real builds; nothing is run."""

import dataclasses
import json
import platform

import pytest

from exporters.errors import FusionMismatch, PrecisionMismatch, UnknownTarget
from exporters.tensorrt import backend as backends
from sagan_deploy import build as module
from sagan_deploy.build import build_plan, check_plan, write_plan
from sagan_deploy.bundle.bundle import find_manifest, sidecar_path
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import sha256, sha256_bytes
from tests.exporters.models import exported
from tests.tiny_models import tiny_onnx

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """The exported fp16 inference form of a small conditional generator with one attention block."""
    from sagan_deploy.checkpoints.native import checkpoint_of
    from sagan_deploy.model.generator import Generator
    from sagan_deploy.model.inference import InferenceOptions
    from tests.exports import export_once
    from tests.generators import TINY, lively

    made = checkpoint_of(lively(Generator(TINY)), class_names=("a", "b", "c"), provenance=({"step": "train"},))
    path = tmp_path_factory.mktemp("onnx") / "g.fp16.onnx"
    path.write_bytes(export_once(made, InferenceOptions(precision="fp16")).payload)
    return path


@pytest.fixture(scope="module")
def built(onnx_file):
    return build_plan(onnx_file, targets=("rtx-4090", "rtx-5090"), min_batch=1, opt_batch=2, max_batch=4)


def with_metadata(source, path, **changes):
    from exporters.onnx import add_metadata

    path.write_bytes(add_metadata(source.read_bytes(), {f"sagan_deploy.{k}": v for k, v in changes.items()}))
    return path


def test_sidecar(built, onnx_file, tmp_path):
    from tests.generators import TINY

    out = write_plan(tmp_path / "sub" / "g.plan", built)
    assert sorted(path.name for path in out.parent.iterdir()) == ["g.plan", "g.plan.json"]
    manifest, artifact = find_manifest(out)
    assert manifest.generator == TINY
    assert manifest.class_names == ("a", "b", "c")
    assert [step["step"] for step in manifest.provenance] == ["train", "export", "build"]
    assert (artifact.path, artifact.kind, artifact.sha256) == ("g.plan", "plan", sha256(out))
    assert artifact.size == out.stat().st_size == len(built.plan)
    assert (artifact.precision, artifact.form, artifact.attention) == ("fp16", "inference", "fused")
    assert [(t.name, t.dtype, t.shape) for t in (*artifact.inputs, *artifact.outputs)] == [
        ("z", "float32", ("n", 8)),
        ("labels", "int64", ("n",)),
        ("images", "float32", ("n", 3, 16, 16)),
    ]
    assert all(tensor.meaning for tensor in artifact.inputs)
    assert artifact.verdict.status == "not_run"
    plan = artifact.plan
    assert (plan.flavour, plan.tensorrt_version) == ("rtx", backends.load_backend("rtx").version)
    assert plan.targets == ("sm_89", "sm_120")
    assert plan.compute_capabilities == ((8, 9), (12, 0)) == built.result.header.compute_capabilities
    assert plan.profiles == (
        {"z": {"min": (1, 8), "opt": (2, 8), "max": (4, 8)}, "labels": {"min": (1,), "opt": (2,), "max": (4,)}},
    )
    assert (plan.min_batch, plan.max_batch) == (1, 4)
    assert plan.fused_attention == 1
    assert plan.layer_count == len(built.result.layers.layers)
    assert plan.onnx_sha256 == sha256(onnx_file)
    assert (plan.build_os, plan.build_arch) == (platform.system().lower(), platform.machine().lower())
    assert plan.weight_bytes > 0 < plan.activation_bytes
    assert manifest.tools == {"tensorrt_rtx": plan.tensorrt_version}


def test_the_runtime_takes_what_was_written(built, tmp_path):
    """Everything that it checks before it needs a GPU: kind, version, operating system, hash, profiles."""
    from sagan_deploy.runtime.plan import Machine, preflight

    manifest, artifact = find_manifest(write_plan(tmp_path / "g.plan", built))
    here = Machine(lambda flavour: backends.load_backend(flavour).version, lambda: (8, 9))
    preflight((tmp_path / "g.plan").read_bytes(), "g.plan", manifest, artifact, here)
    with pytest.raises(InputError, match="sm_89, sm_120"):
        preflight(built.plan, "g.plan", manifest, artifact, dataclasses.replace(here, capability=lambda: (8, 6)))


def test_default_batches():
    assert module.smallest_best_largest(1, None, 64) == (1, 8, 64)
    assert module.smallest_best_largest(1, None, 4) == (1, 4, 4)
    assert module.smallest_best_largest(16, None, 64) == (16, 16, 64)


@pytest.mark.parametrize("batches", [(0, 1, 1), (2, 1, 4), (1, 8, 4)])
def test_contradicting_batches(onnx_file, batches):
    low, best, high = batches
    with pytest.raises(ConfigError, match=f"1 <= min <= opt <= max, not {low}, {best}, {high}"):
        build_plan(onnx_file, min_batch=low, opt_batch=best, max_batch=high)


def test_several_profiles_have_their_own_batches_and_memory(onnx_file):
    plan = (
        build_plan(onnx_file, targets=("sm_89",), profiles=((1, 1, 1), (1, 8, 16), (16, 32, 64)))
        .manifest.artifacts[0]
        .plan
    )
    assert [profile["z"]["max"][0] for profile in plan.profiles] == [2, 16, 64]
    assert plan.fused_attention == 1
    small, middle, large = plan.profile_activation_bytes
    assert small < middle < large == plan.activation_bytes


def test_a_dry_run_reads_the_file_and_builds_nothing(onnx_file):
    checked, product = check_plan(onnx_file, targets=("rtx-4090",))
    assert "TensorRT for RTX" in product
    assert [name for name, _, _ in checked.inputs] == ["z", "labels"]
    with pytest.raises(ConfigError, match="1 <= min <= opt <= max"):
        check_plan(onnx_file, profiles=((2, 1, 4),))


def test_a_batch_of_one_keeps_the_fused_attention(onnx_file):
    plan = build_plan(onnx_file, targets=("sm_89",), max_batch=1).manifest.artifacts[0].plan
    assert plan.fused_attention == 1
    assert (plan.min_batch, plan.max_batch) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"precision": "fp32"}, PrecisionMismatch, "fp32 was asked for"),
        ({"attention_blocks": "2"}, FusionMismatch, "2 fused attention kernels"),
        ({"config": "{"}, InputError, "damaged metadata"),
        ({"config": '{"z_dim": 0}'}, InputError, r"damaged metadata: z_dim \(=0\)"),
        ({"attention_blocks": "many"}, InputError, "damaged metadata"),
        ({"config": '{"z_dim": 9, "num_classes": 3, "norm": "class_table"}'}, InputError, "takes z .*config has 9"),
    ],
)
def test_a_model_that_is_not_what_it_says(onnx_file, tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words):
        build_plan(with_metadata(onnx_file, tmp_path / "m.onnx", **changes), targets=("sm_89",), max_batch=2)


def test_incomplete_metadata(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx(metadata={"sagan_deploy.config": "{}"}))
    with pytest.raises(InputError, match=r"m.onnx lacks the metadata sagan_deploy\.\w+. Export it again"):
        build_plan(path)


def test_a_model_of_another_origin_is_built_without_a_sidecar(tmp_path):
    path, out = tmp_path / "other.onnx", tmp_path / "other.plan"
    path.write_bytes(exported("plain").payload)
    sidecar_path(out).write_text("{}")
    built = build_plan(path, targets=("sm_89",), max_batch=4)
    assert built.manifest is None
    assert built.result.layers.io[0].profiles[0].max == (4, 8)
    write_plan(out, built)
    assert out.read_bytes() == built.plan
    assert not sidecar_path(out).exists()


def test_other_free_sizes_than_the_batch(tmp_path):
    import onnx

    model = onnx.load_from_string(exported("plain").payload)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    path = tmp_path / "free.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"'z' has the shape \['n', 'width'\]; only the first size"):
        build_plan(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "an empty file"),
        (b"vtrt" + bytes(60), "is a plan; a plan is built from"),
    ],
)
def test_no_onnx_file(tmp_path, content, words):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        build_plan(path)


def test_truncated_onnx_file(onnx_file, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"m.onnx is no whole ONNX model"):
        build_plan(path)


def test_targets_are_checked_before_a_backend_is_loaded(onnx_file, monkeypatch):
    monkeypatch.setattr(backends, "load_backend", None)
    with pytest.raises(UnknownTarget, match="Did you mean"):
        build_plan(onnx_file, targets=("rtx-9999",))


@pytest.mark.parametrize(
    ("targets", "here", "chosen"),
    [
        ("rtx-4090", {"rtx", "tensorrt"}, "rtx"),
        ("rtx-4090", {"tensorrt"}, "tensorrt"),
        ("rtx-4090", set(), "rtx"),
        ("h100", {"rtx", "tensorrt"}, "tensorrt"),
        ("h100,rtx-4090", {"rtx"}, "tensorrt"),
        ("v100", {"rtx"}, "auto"),
    ],
)
def test_auto_takes_the_flavour_that_serves_the_targets(monkeypatch, targets, here, chosen):
    from exporters.targets import resolve_targets

    monkeypatch.setattr(backends, "installed", lambda flavour: flavour in here)
    assert module._flavour("auto", resolve_targets(targets)) == chosen


def test_both_files_or_none(built, tmp_path, monkeypatch):
    def full(path, text):
        raise InputError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr(module, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        write_plan(tmp_path / "g.plan", built)
    assert list(tmp_path.iterdir()) == []


def test_sidecar_is_plain_json_of_this_very_plan(built, tmp_path):
    out = write_plan(tmp_path / "g.plan", built)
    values = json.loads(sidecar_path(out).read_text())
    assert values["artifacts"][0]["sha256"] == sha256_bytes(built.plan)
