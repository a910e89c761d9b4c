"""What gets installed, and what a missing extra says."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_holds_both_packages_with_their_templates_and_nothing_else(tmp_path):
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    tracked = {
        path.relative_to(ROOT).as_posix()
        for package in ("sagan_deploy", "exporters")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == tracked
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("sagan_deploy/reports/templates/") for name in packed)


def test_the_base_is_light_and_no_extra_brings_both_onnxruntimes():
    heavy = ("torch", "onnx", "tensorrt", "cuda")
    assert not any(dependency.startswith(heavy) for dependency in PROJECT["dependencies"])
    for name, packages in PROJECT["optional-dependencies"].items():
        runtimes = [package for package in packages if package.startswith("onnxruntime")]
        assert len(runtimes) <= 1, name


def test_a_missing_package_is_one_line_with_the_extra_and_exit_code_3(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch', name='torch')")
    checkpoint = tmp_path / "g.safetensors"
    checkpoint.write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "sagan_deploy", "export", str(checkpoint), "--out", str(tmp_path / "g.onnx"), "--quiet"],
        capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'sagan-deploy[export]'" in done.stderr
