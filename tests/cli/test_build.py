"""`sagan-deploy build`."""

import json

import pytest

from tests.exporters.models import exported
from tests.tiny_models import make_bundle, tiny_onnx

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.fixture
def onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported().payload)
    return path


def test_json(onnx, tmp_path, program):
    out = tmp_path / "model.plan"
    outcome = program("build", onnx, "--out", out, "--target", "rtx-4090,rtx-5090", "--max-batch", 2, "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["targets"] == ["sm_89", "sm_120"]
    assert facts["inputs"]["z"] == [{"min": [1, 8], "opt": [2, 8], "max": [2, 8]}]
    assert (facts["fused_attention"], facts["bytes"], facts["sidecar"]) == (2, out.stat().st_size, None)
    assert out.read_bytes()[:4] == b"vtrt"


def test_table(onnx, tmp_path, program):
    outcome = program("build", onnx, "--out", tmp_path / "m.plan", "--quiet")
    assert outcome.code == 0
    assert "sm_80, sm_86, sm_89, sm_120, sm_121" in outcome.out
    assert "z: [1, 8] to [64, 8], tuned for [8, 8]" in outcome.out
    assert "2 blocks fused into _gemm_mha_v2" in outcome.out
    assert outcome.err == ""


def test_profiles_in_every_spelling(onnx, tmp_path, program):
    spellings = (
        ("--profile", "1:1:2", "--profile", "2:4:8"),
        ("--min-shapes", "z:1x8,labels:1", "--opt-shapes", "z:1x8,labels:1", "--max-shapes", "z:2x8,labels:2",
         "--min-shapes", "z:[2,8],labels:[2]", "--opt-shapes", "z:[4,8] labels:[4]", "--max-shapes", "z:8x8,labels:8"),
    )  # fmt: skip
    for spelling in spellings:
        outcome = program("build", onnx, "--out", tmp_path / "m.plan", "--force", "--json", *spelling)
        assert outcome.code == 0, outcome.err
        facts = json.loads(outcome.out)
        assert [shape["max"] for shape in facts["inputs"]["z"]] == [[2, 8], [8, 8]]
        assert len(facts["profile_activation_bytes"]) == 2


def test_a_dry_run_writes_nothing(onnx, tmp_path, program):
    outcome = program("build", onnx, "--dry-run", "--target", "rtx-5090")
    assert outcome.code == 0
    assert "takes the model for sm_120" in outcome.out
    assert "Nothing was built" in outcome.out
    facts = json.loads(program("build", onnx, "--dry-run", "--json").out)
    assert facts["inputs"]["z"] == {"type": "float", "shape": [-1, 8]}
    assert facts["built"] is False
    assert list(tmp_path.iterdir()) == [onnx]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--profile", "1:8"), 2, "MIN:OPT:MAX"),
        (("--min-shapes", "z:1x8"), 2, "belong together"),
        (("--timing-cache", "cache.bin"), 2, "has no timing cache"),
        (("--dry-run", "--target", "h100", "--flavour", "rtx"), 2, "--flavour tensorrt --target local"),
        (("--target", "rtx-9999"), 2, "Did you mean"),
        (("--target", "h100", "--flavour", "rtx"), 2, "--flavour tensorrt --target local"),
        (("--workspace", "1"), 2, "Allow more workspace"),
        (("--refit", "--strip"), 2, "exclude each other"),
        (("--opt-batch", "9", "--max-batch", "4"), 2, "1 <= min <= opt <= max, not 1, 9, 4"),
    ],
)
def test_usage(onnx, tmp_path, program, options, code, words):
    outcome = program("build", onnx, "--out", tmp_path / "m.plan", *options)
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "m.plan").exists()


def test_without_out_it_says_what_is_missing(onnx, program):
    outcome = program("build", onnx)
    assert outcome.code == 2
    assert "--dry-run" in outcome.err


def test_classic_without_its_package(onnx, tmp_path, program, monkeypatch):
    import sys

    from exporters.tensorrt import backend

    backend._load.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    outcome = program("build", onnx, "--out", tmp_path / "m.plan", "--flavour", "tensorrt", "--target", "rtx-4090")
    assert outcome.code == 3
    assert "pip install tensorrt" in outcome.err


def test_an_existing_plan_stays(onnx, tmp_path, program):
    out = tmp_path / "m.plan"
    out.write_bytes(b"precious")
    outcome = program("build", onnx, "--out", out)
    assert outcome.code == 4
    assert "--force" in outcome.err
    assert out.read_bytes() == b"precious"


def test_no_onnx(tmp_path, program):
    outcome = program("build", tmp_path / "missing.onnx", "--out", tmp_path / "m.plan")
    assert (outcome.code, "does not exist" in outcome.err) == (4, True)


def test_a_folder_that_is_no_bundle(tmp_path, program):
    outcome = program("build", tmp_path, "--target", "local")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "manifest.json" in outcome.err


def test_a_bundle_is_built_for_this_machine_or_says_why_not(tmp_path, program):
    from exporters.gpu import local_gpus

    if local_gpus()[0]:
        pytest.skip("this machine has a GPU; tests/gpu builds there")
    bundle = make_bundle(tmp_path / "bundle")
    refused = program("build", bundle, "--target", "local")
    assert refused.code == 3, refused.err
    assert "GPU" in refused.err
    assert refused.err.count("\n") == 1
    for options in (("--target", "rtx-4090"), ("--out", tmp_path / "m.plan"), ("--max-batch", 8), ("--strip",)):
        usage = program("build", bundle, *options)
        assert usage.code == 2
        assert f"leave {options[0]} out" in usage.err


def test_a_model_without_free_sizes_takes_no_profile(tmp_path, program):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(tiny_onnx(batch=4, metadata={}))
    for words in (("--dry-run",), ("--out", tmp_path / "m.plan")):
        assert program("build", path, *words).code == 0
        refused = program("build", path, *words, "--profile", "1:2:4", "--force")
        assert refused.code == 2
        assert "fixed.onnx has no free sizes" in refused.err
        assert refused.err.count("\n") == 1
