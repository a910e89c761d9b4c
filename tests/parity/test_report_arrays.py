"""Every number of a report can be computed again from what it saves, by lines that know nothing of this project."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sagan_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from sagan_deploy.cli.app import app
from sagan_deploy.model.inference import InferenceOptions
from tests.exports import export_once
from tests.generators import tiny_checkpoint

SCRIPT = Path(__file__).with_name("recompute.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    checkpoint = load_checkpoint(save_checkpoint(folder / "g.safetensors", tiny_checkpoint()))
    (folder / "single.onnx").write_bytes(export_once(checkpoint).payload)
    (folder / "half.onnx").write_bytes(export_once(checkpoint, InferenceOptions(precision="fp16")).payload)
    run(folder, "--report", str(folder / "report"), "--save-baseline", str(folder / "baseline.json"))
    return folder


def run(folder, *options, files=("single.onnx", "half.onnx"), code=0):
    """What the command printed, and its error's words."""
    paths = [str(folder / name) for name in files]
    result = CliRunner().invoke(app, ["parity", str(folder / "g.safetensors"), *paths, "--count", "4", *options])
    assert getattr(result.exception, "exit_code", result.exit_code) == code, result.output
    return result.stdout, str(result.exception)


def recompute(folder):
    return subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True)


def test_an_independent_script_finds_the_same_numbers(folder):
    found = recompute(folder / "report")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["single.onnx 24", "half.onnx 24"]


def test_the_script_notices_a_number_that_is_not_that_of_the_images(folder, tmp_path):
    report = json.loads((folder / "report" / "report.json").read_text())
    report["legs"][-1]["images"]["measures"]["rel_l2"][3] *= 1.01
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "arrays.npz").write_bytes((folder / "report" / "arrays.npz").read_bytes())
    assert "rel_l2" in recompute(tmp_path).stderr


def test_the_same_build_is_as_good_as_its_baseline(folder):
    assert "WORSE" not in run(folder, "--against-baseline", str(folder / "baseline.json"))[0]


def test_a_build_that_came_closer_to_its_limit_is_told_although_it_passes(folder, tmp_path):
    saved = json.loads((folder / "baseline.json").read_text())
    (gate,) = [g for g in saved["legs"][-1]["gates"] if g["rule"] == "tensor.rel_l2"]
    gate["value"] -= 0.3 * gate["limit"]
    path = tmp_path / "better.json"
    path.write_text(json.dumps(saved))
    printed, error = run(folder, "--against-baseline", str(path), code=1)
    assert "WORSE" in printed
    assert "half.onnx" in error
    assert "tensor.rel_l2" in error
    run(folder, "--against-baseline", str(path), "--max-regression", "0.4")


def test_features_are_for_the_distribution_lane(folder):
    assert "--distribution" in run(folder, "--features", "x.onnx", code=2)[1]


def test_files_that_are_no_baseline_are_refused(folder, tmp_path):
    for text in ("{}", "no json", '{"schema": 99}', '{"schema": 1, "legs": [{"name": 1}]}'):
        path = tmp_path / "other.json"
        path.write_text(text)
        assert "other.json" in run(folder, "--against-baseline", str(path), code=4)[1]


def test_fail_fast_leaves_the_rest_unrun_and_says_so(folder):
    stranger = dataclasses.replace(tiny_checkpoint(seed=5), sha256="11" * 32)
    (folder / "stranger.onnx").write_bytes(export_once(stranger).payload)
    printed, _ = run(folder, "--fail-fast", "--json", files=("stranger.onnx", "single.onnx"), code=1)
    legs = json.loads(printed)["legs"]
    assert [leg["status"] for leg in legs][1:] == ["failed", "not_run"]
    assert "--fail-fast" in legs[-1]["reason"]
