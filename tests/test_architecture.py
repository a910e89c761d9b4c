"""The house: small files, arrows that point one way, nothing heavy before it is needed."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("sagan_deploy", "exporters") for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx", "exporters", "jinja2")


def modules_after(code):
    """Which heavy modules a fresh process has loaded after running `code`."""
    show = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_help_and_the_runtime_load_nothing_heavy():
    assert modules_after("import sagan_deploy.runtime") == []
    ask = "import sys; from sagan_deploy.cli.app import app; sys.argv = ['sagan-deploy', '--help']"
    assert modules_after(f"{ask}\ntry: app()\nexcept SystemExit: pass") == []


def test_that_check_can_fail():
    assert modules_after("import onnx") == ["onnx"]


@pytest.mark.parametrize("code", ["import sagan_deploy.runtime", "from sagan_deploy.cli.app import app"])
def test_they_answer_quickly(code):
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, since the tests share their cores; once is enough, since caches fill and neighbours slow a core.
    assert any(seconds() < 0.35 for _ in range(10))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    source = path.read_text()
    assert source.count("\n") <= 350
    long = [f.name for f in functions(ast.parse(source)) if f.end_lineno - f.lineno + 1 > 60]
    assert long == []


def test_files_of_other_people_are_read_in_one_place_as_tensors_only():
    calls = [
        (path.name, {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords})
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls == [("reading.py", {"map_location": "cpu", "weights_only": True})]


def test_nothing_is_unpickled():
    forbidden = {("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("marshal", "loads")}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in forbidden, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


def test_only_files_py_writes_to_the_disk():
    writers = {"write_text", "write_bytes", "mkdir", "rename", "replace", "unlink"}
    for path in SOURCES:
        if path.name == "files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in writers:
                # str.replace and dataclasses.replace share a name with Path.replace and take more arguments.
                pathlike = node.func.attr != "replace" or (len(node.args) == 1 and not node.keywords)
                assert not pathlike, f"{path}:{node.lineno}"


def test_the_import_contracts_hold():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
