"""`sagan-deploy deploy` and `bench`."""

import json

import pytest

from sagan_deploy.checkpoints.native import save_checkpoint
from tests import exports
from tests.generators import tiny_checkpoint


@pytest.fixture(autouse=True, scope="module")
def shared_exports():
    with exports.shared():
        yield


def test_deploy_makes_a_bundle_and_bench_measures_it(program, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    bundle = tmp_path / "bundle"
    done = program(
        "deploy", checkpoint, "--out", bundle, "--precision", "fp32", "--target", "none", "--count", 2, "--json"
    )
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert [artifact["verdict"]["status"] for artifact in facts["manifest"]["artifacts"]] == ["passed"]
    measured = program("bench", bundle, "--batch", "1", "--duration", 0.05, "--json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["rows"][0]["p50_ms"] > 0
    assert program("bench", bundle, "--batch", "one").code == 2
    page = bundle.with_name("bench.html")
    quick = ("--batch", "1", "--duration", 0.05, "--threads", 1, "--page", page)
    assert program("bench", bundle, *quick).code == 0
    assert "images" in page.read_text().lower()
    refused = program("bench", bundle, *quick)
    assert (refused.code, "--force" in refused.err) == (4, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "fp8"), "fp8 convolutions need sm_89 or later"),
        (("--precision", "fp16", "--target", "rtx-9999"), "Did you mean"),
        (("--precision", "fp16", "--target", "h100", "--flavour", "rtx"), "--flavour tensorrt --target local"),
        (("--precision", "int8", "--target", "t4"), "int8 convolutions need sm_80 or later"),
        (("--precision", "fp4"), "fp4"),
        (("--precision", "fp16,fp16"), "each one once"),
        (("--float32", "tail"), "add --precision mixed or leave it out"),
        (("--precision", "mixed", "--float32", "tial"), "'tial' must be stem, tail"),
        (("--calibration-latents", 0), "calibration-latents"),
    ],
)
def test_what_cannot_be_is_a_usage_error_before_any_work(program, tmp_path, monkeypatch, options, words):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    for module in ("deploy", "quantisation"):
        monkeypatch.setattr(f"sagan_deploy.{module}.export_generator", lambda *_, **__: pytest.fail("exported"))
    checkpoint = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    done = program("deploy", checkpoint, "--out", tmp_path / "bundle", *options)
    assert done.code == 2
    assert words in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_a_triton_repository_beside_the_bundle(program, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    bundle, served = tmp_path / "bundle", tmp_path / "served"
    options = ("--precision", "fp32", "--target", "none", "--count", 2, "--triton", served)
    done = program("deploy", checkpoint, "--out", bundle, *options, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["triton"] == str(served)
    assert (served / "generator_onnx/1/model.onnx").read_bytes() == (bundle / "onnx/generator.fp32.onnx").read_bytes()
    # Refused before the work: no second bundle appears.
    again = program("deploy", checkpoint, "--out", tmp_path / "second", *options)
    assert (again.code, (tmp_path / "second").exists()) == (4, False)
    assert "served exists already" in again.err
