"""The cluster samples cannot run here; what they tell the program can be checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from sagan_deploy.cli.app import app

SAMPLES = Path(__file__).parent.parent / "samples"


def _options(text):
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text))


@pytest.mark.parametrize("name", ["train.slurm", "train.kubernetes.yaml"])
def test_the_samples_use_options_that_exist(name):
    text = (SAMPLES / name).read_text()
    command = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    launcher, ours = re.split(r"-m\s+(?:-\s+)?sagan_deploy\s+(?:-\s+)?train", command)
    known = {option for p in typer.main.get_command(app).commands["train"].params for option in p.opts}
    assert _options(ours) >= {"--preset", "--data", "--out", "--device", "--auto-resume"}
    assert _options(ours) <= known
    from torch.distributed.run import get_args_parser

    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {"--nnodes", "--rdzv-endpoint", "--max-restarts"} <= _options(launcher)
    assert _options(launcher.split("torchrun")[1]) <= theirs


def test_the_slurm_sample_is_shell(tmp_path):
    import subprocess

    assert subprocess.run(["bash", "-n", SAMPLES / "train.slurm"]).returncode == 0


def test_the_kubernetes_sample_is_yaml():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    service, job = yaml.safe_load_all((SAMPLES / "train.kubernetes.yaml").read_text())
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
