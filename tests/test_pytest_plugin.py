"""The pytest plugin, in a pytest of its own."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from sagan_deploy.bundle.manifest import MANIFEST_NAME
from sagan_deploy.pytest_plugin import assert_verified
from tests.tiny_models import golden_of, make_bundle, plan_bytes

ONE_LINE = """
from sagan_deploy.pytest_plugin import assert_verified

def test_bundle(sagan_bundle):
    assert_verified(sagan_bundle)
"""


def run_pytest(folder, *arguments):
    (folder / "test_mine.py").write_text(ONE_LINE)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", f"--rootdir={folder}", *arguments]
    return subprocess.run([*map(str, command), "test_mine.py"], cwd=folder, capture_output=True, text=True)


def test_one_line_passes_for_every_bundle_named(tmp_path):
    one, two = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "two")
    done = run_pytest(tmp_path, "--sagan-bundle", one, f"--sagan-bundle={two}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"test_bundle[{one}]" in done.stdout
    assert f"test_bundle[{two}]" in done.stdout
    assert "10 passed" in done.stdout  # and four items of each bundle


def run_alone(folder, *arguments):
    """pytest in a folder without any test."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)


def outcomes(done):
    """Names of the items by outcome, as pytest's summary lists them."""
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\S+?)::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return {name: outcome for outcome, _, name in found}


def test_the_option_alone_tests_a_bundle(tmp_path):
    make_bundle(tmp_path / "mine", plan=plan_bytes())
    done = run_alone(tmp_path, "--sagan-bundle", "mine", "--junitxml=junit.xml", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(done) == dict.fromkeys(
        ["integrity", "onnx/fp32.onnx[onnxruntime-cpu]", "onnx/fp16.onnx[onnxruntime-cpu]", "something ran"], "PASSED"
    )
    assert "collected 7 items" in done.stdout
    assert "SKIPPED [2]" in done.stdout  # both files with CUDA; the reason says what is missing
    assert "no CUDA provider" in done.stdout
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "junit.xml").iter("testcase")}
    numbers = {p.get("name"): float(p.get("value")) for p in cases["onnx/fp16.onnx[onnxruntime-cpu]"].iter("property")}
    assert set(numbers) == {"rel_l2", "rel_l2_limit", "max_abs", "max_abs_limit"}
    assert 0 < numbers["rel_l2"] <= numbers["rel_l2_limit"]
    assert len([case for case in cases.values() if case.find("skipped") is not None]) >= 1


def test_items_can_be_chosen(tmp_path):
    make_bundle(tmp_path / "mine")
    done = run_alone(tmp_path, "--sagan-bundle", "mine", "-k", "integrity or ran")
    assert outcomes(done) == {"integrity": "PASSED", "something ran": "PASSED"}


def test_wrong_images_fail_their_own_items_with_numbers_and_no_traceback(tmp_path):
    golden = golden_of()
    golden.images[1] += 0.1
    make_bundle(tmp_path / "mine", golden=golden)
    done = run_alone(tmp_path, "--sagan-bundle", "mine")
    assert done.returncode == 1
    assert outcomes(done) == {
        "integrity": "PASSED",
        "onnx/fp32.onnx[onnxruntime-cpu]": "FAILED",
        "onnx/fp16.onnx[onnxruntime-cpu]": "FAILED",
        "something ran": "PASSED",
    }
    assert "max_abs is 0.1, the limit is 0.0001" in done.stdout
    assert "worst image: 1" in done.stdout
    assert "sagan-deploy verify mine" in done.stdout
    assert "Traceback" not in done.stdout
    assert "def runtest" not in done.stdout


def test_a_damaged_file_fails_and_so_does_a_folder_that_is_no_bundle(tmp_path):
    path = make_bundle(tmp_path / "mine") / "onnx/fp16.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (tmp_path / "empty").mkdir()
    done = run_alone(tmp_path, "--sagan-bundle", "mine", "--sagan-bundle", "empty", "-v")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split(" - ")[0] for line in lines] == [
        "FAILED mine::integrity", "FAILED mine::onnx/fp16.onnx[onnxruntime-cpu]", "FAILED empty::integrity",
    ]  # fmt: skip
    assert "has no manifest.json" in done.stdout


def test_nothing_run_is_no_pass_here_either(tmp_path, monkeypatch):
    make_bundle(tmp_path / "mine", plan=plan_bytes())
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime', name='onnxruntime')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    done = run_alone(tmp_path, "--sagan-bundle", "mine")
    assert done.returncode == 1
    assert outcomes(done) == {"integrity": "PASSED", "something ran": "FAILED"}
    assert "nothing of it could run here, so it is not verified" in done.stdout


def test_without_the_option_it_is_skipped_and_says_why(tmp_path):
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "run pytest with --sagan-bundle DIR" in done.stdout


def test_a_damaged_bundle_fails_with_the_file_named(tmp_path):
    folder = make_bundle(tmp_path / "one")
    path = folder / "onnx/fp16.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = run_pytest(tmp_path, "--sagan-bundle", folder)
    assert done.returncode == 1
    assert "AssertionError" in done.stdout
    assert "onnx/fp16.onnx" in done.stdout


def test_wrong_images_are_listed(tmp_path):
    golden = golden_of()
    golden.images[1] += 0.1
    folder = make_bundle(tmp_path / "one", golden=golden)
    with pytest.raises(
        AssertionError, match=r"(?s)draws other images.*onnx/fp32.onnx with onnxruntime.*images are over"
    ):
        assert_verified(folder, device="cpu")


def test_nothing_verified_is_no_pass(tmp_path):
    folder = make_bundle(tmp_path / "one", plan=plan_bytes())
    with pytest.raises(AssertionError, match="nothing could run here"):
        assert_verified(folder, device="cuda:99")


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(AssertionError, match=MANIFEST_NAME):
        assert_verified(tmp_path)


def test_a_good_bundle_gives_its_result(tmp_path):
    result = assert_verified(make_bundle(tmp_path / "one"), device="cpu")
    assert {replay.status for replay in result.replays} == {"passed"}


def test_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, pytest; before = set(sys.modules); import sagan_deploy.pytest_plugin;"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('sagan_deploy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
