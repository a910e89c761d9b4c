"""`sagan-deploy deploy` and `bench`."""

import json

from sagan_deploy.checkpoints.native import save_checkpoint
from tests.generators import tiny_checkpoint


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


def test_an_unknown_precision_or_target_is_a_usage_error(program, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    for options in (("--precision", "fp8"), ("--precision", "fp16", "--target", "rtx-9999")):
        done = program("deploy", checkpoint, "--out", tmp_path / "bundle", *options)
        assert done.code == 2
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
