"""The pytest plugin, in a pytest of its own."""

import subprocess
import sys

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
    assert "2 passed" in done.stdout
    assert f"test_bundle[{one}]" in done.stdout


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
