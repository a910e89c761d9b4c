"""`sagan-deploy import`."""

import json
import subprocess
import sys

import pytest

from sagan_deploy.checkpoints.native import load_checkpoint
from tests.checkpoints.cases import fixture


def test_it_prints_what_it_found_and_assumed_and_writes_the_checkpoint(program, tmp_path):
    case = fixture("studiogan")
    out = tmp_path / "g.safetensors"
    done = program("import", *case.files, "--out", out, "--check", case.examples)
    assert done.code == 0, done.err
    for words in ("PyTorch-StudioGAN", "detected", "32x32", "assumed", "iterate", "check", "draws the original's"):
        assert words in done.out
    assert load_checkpoint(out).config.image_size == 32


def test_json_says_the_same(program, tmp_path):
    case = fixture("ajbrock_sagan")
    out = tmp_path / "g.safetensors"
    options = case.files[0].with_name("state_dict.pth")
    done = program("import", *case.files, options, "--out", out, "--check", case.examples, "--json", "--quiet")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["path"] == str(out)
    assert facts["origin"] == "biggan-pytorch"
    assert facts["detected"]["attention"] == ["behind stage 4 at 64x64, 8 channels"]
    assert facts["configured"]["norm_eps"] == 1e-5
    assert facts["assumed"]["final_norm_eps"]["value"] == 1e-5
    assert facts["proof"]["passed"]
    assert facts["proof"]["error"] < 1e-12
    assert [file["name"] for file in facts["files"]] == ["G_ema.pth", "state_dict.pth"]


def test_a_failed_check_names_the_cause_exits_with_1_and_writes_nothing(program, tmp_path):
    case = fixture("mmgeneration_rawgain")
    out = tmp_path / "g.safetensors"
    done = program("import", *case.files, "--out", out, "--check", case.examples, "--json")
    assert done.code == 1
    assert not out.exists()
    assert "--set gain_offset=0" in done.err
    assert "Nothing was written" in done.err
    assert json.loads(done.out)["path"] is None
    again = program("import", *case.files, "--out", out, "--check", case.examples, "--set", "gain_offset=0")
    assert again.code == 0
    assert out.exists()


def test_without_a_check_it_says_how_to_get_one(program, tmp_path):
    case = fixture("mimicry32")
    done = program("import", *case.files, "--out", tmp_path / "g.safetensors", "--from", "mimicry")
    assert done.code == 0
    assert "--check io.npz" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--set", "norm_eps"), 2, "NAME=VALUE"),
        (("--set", "norm_eps=1", "--set", "norm_eps=2"), 2, "given twice"),
        (("--set", "norm_eps=0"), 2, "positive"),
        (("--from", "stylegan"), 2, "knows no"),
        (("--from", "voletiv"), 4, "not a voletiv file"),
        (("--check", "none.npz"), 4, "none.npz"),
    ],
)
def test_bad_input_is_one_line(program, tmp_path, arguments, code, words):
    out = tmp_path / "g.safetensors"
    done = program("import", *fixture("mimicry32").files, "--out", out, *arguments)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert words in done.err
    assert not out.exists()


def test_an_existing_file_is_kept_without_force(program, tmp_path):
    out = tmp_path / "g.safetensors"
    out.write_text("mine")
    refused = program("import", *fixture("mimicry32").files, "--out", out)
    assert refused.code == 4
    assert out.read_text() == "mine"
    assert program("import", *fixture("mimicry32").files, "--out", out, "--force").code == 0


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['sagan-deploy', 'import', '--help']\n"
        "from sagan_deploy.cli.app import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'safetensors', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "discriminators are not imported" in done.stdout
