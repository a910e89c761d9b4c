"""What the README shows is run, in its order and in one folder; so are the samples."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.checkpoints.cases import fixture

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "samples/from-studiogan-to-a-plan.md").read_text()
PROGRAM = Path(sys.executable).parent / "sagan-deploy"


def fenced(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_lines(text=README):
    lines = [line.split("    #")[0].strip() for block in fenced("sh", text) for line in block.splitlines()]
    return [line for line in lines if line]


def run(*command, cwd):
    environment = os.environ | {"COLUMNS": "160"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder in which every command of the README has been run, and what each printed."""
    folder = tmp_path_factory.mktemp("readme")
    printed = {}
    for line in shell_lines():
        words = shlex.split(line)
        if words[0] == "sagan-deploy" and words[1] != "import":  # which needs a file of other people, see below
            printed[words[1]] = run(PROGRAM, *words[1:], cwd=folder)
    return folder, printed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_work_in_their_order(walked):
    folder, printed = walked
    assert list(printed) == ["train", "export", "build", "parity", "deploy", "verify", "generate", "inspect", "bench"]
    assert all(printed.values()), "every command prints its result"
    assert (folder / "bundle" / "manifest.json").is_file()
    assert (folder / "parity" / "report.html").is_file()
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_the_guide_and_the_readme_import_what_people_have(tmp_path):
    studiogan, ajbrock = fixture("studiogan"), fixture("ajbrock_sagan")
    place = tmp_path / "checkpoints" / "MY-RUN" / studiogan.files[0].name
    place.parent.mkdir(parents=True)
    shutil.copy(studiogan.files[0], place)
    shutil.copy(studiogan.examples, tmp_path / "io.npz")
    lines = shell_lines(GUIDE)
    assert [shlex.split(line)[1] for line in lines] == ["import", "deploy", "verify", "generate", "inspect"]
    for line in lines:
        assert run(PROGRAM, *shlex.split(line)[1:], cwd=tmp_path)
    for block in fenced("python", GUIDE):
        run(sys.executable, "-c", block, cwd=tmp_path)
    assert (tmp_path / "bundle" / "engines" / "generator.fp16.plan").is_file()
    (line,) = [line for line in shell_lines() if line.startswith("sagan-deploy import")]
    for path in (*ajbrock.files, ajbrock.files[0].with_name("state_dict.pth"), ajbrock.examples):
        shutil.copy(path, tmp_path)
    assert "draws the original's pictures" in run(PROGRAM, *shlex.split(line)[1:], "--force", cwd=tmp_path)


def test_the_guide_lists_every_origin_and_setting():
    from sagan_deploy.checkpoints.detection import ORIGINS
    from sagan_deploy.checkpoints.settings import SETTINGS

    assert set(re.findall(r"^\| `([\w-]+)`", GUIDE, re.MULTILINE)) == set(ORIGINS)
    assert [name for name in SETTINGS if f"`{name}`" not in GUIDE] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_works(walked):
    folder, _ = walked
    for block in fenced("python"):
        run(sys.executable, "-c", block, cwd=folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_samples_work(walked):
    folder, _ = walked
    run(sys.executable, ROOT / "samples/generate_grid.py", "bundle", "grid.png", cwd=folder)
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    measure = [sys.executable, ROOT / "samples/start_and_rest.py", "bundle", "--runtime-cache", "kept", "--no-spin"]
    lines = run(*measure, cwd=folder).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "load",
        "peak of the process",
        "a call and its rest",
        "a call",
    ]
    assert all(float(re.search(r": ([\d.]+) ", line).group(1)) > 0 for line in lines)
    assert (folder / "kept").is_file()
    command = [sys.executable, ROOT / "samples/service.py", "bundle", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as service:
        watchdog = threading.Timer(60, service.kill)
        watchdog.start()
        try:
            address = service.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{address}?seed=3&count=4&class=1", timeout=30) as answer:
                assert answer.read().startswith(b"\x89PNG")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{address}?class=999", timeout=30)
            assert refused.value.code == 400
            refused.value.close()
        finally:
            watchdog.cancel()
            service.kill()


def test_the_two_commands_exist_and_the_table_lists_every_command():
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines():
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    stems = {path.stem for path in (ROOT / "sagan_deploy/cli").glob("*.py")} - {"__init__", "app", "talk"}
    stems -= {stem for stem in stems if stem.endswith("_options")}
    files = {stem.removesuffix("_") for stem in stems}
    assert listed == files


def test_every_rule_is_named():
    from sagan_deploy.reports.rules import RULES

    section = README.partition("**In CI.**")[2].partition("##")[0]
    family, named = "", set()
    for name in re.findall(r"`([a-z]*\.[a-z0-9_]+)`", section):
        family = name.partition(".")[0] or family
        named.add(f"{family}.{name.partition('.')[2]}")
    assert named == {rule.id for rule in RULES} - {"leg.run"}


def test_every_sample_is_run_or_a_workflow():
    samples = {path.name for path in (ROOT / "samples").iterdir() if path.suffix in (".py", ".yml")}
    assert samples == {"generate_grid.py", "service.py", "start_and_rest.py", "parity-workflow.yml"}
    workflow = (ROOT / "samples/parity-workflow.yml").read_text()
    commands = re.findall(r"- run: ((?:sagan-deploy|pytest).*)", workflow)
    assert [command.split()[:2] for command in commands] == [
        ["sagan-deploy", "export"], ["sagan-deploy", "export"], ["sagan-deploy", "parity"], ["sagan-deploy", "deploy"],
        ["pytest", "--sagan-bundle"],
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workflow_judges_against_its_baseline_and_tests_the_bundle(walked, tmp_path):
    """Its last lines as they stand there, on files that the README's commands have made."""
    folder, _ = walked
    shutil.copy(folder / "run/generator.safetensors", tmp_path)
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    for precision in ("fp32", "fp16"):
        shutil.copy(tmp_path / f"bundle/onnx/generator.{precision}.onnx", tmp_path)
    workflow = (ROOT / "samples/parity-workflow.yml").read_text()
    (judge,) = re.findall(r"- run: (sagan-deploy parity .*)", workflow)
    (test,) = re.findall(r"- run: (pytest .*)", workflow)
    save = judge.partition(" --report")[0] + " --save-baseline parity-baseline.json"
    for line in (save, judge):
        run(PROGRAM, *shlex.split(line)[1:], "--count", "4", cwd=tmp_path)
    assert (tmp_path / "parity/report.html").is_file()
    run(PROGRAM.with_name("pytest"), *shlex.split(test)[1:], cwd=tmp_path)
    assert "something ran" in (tmp_path / "bundle.xml").read_text()


def test_every_link_to_a_file_resolves():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
