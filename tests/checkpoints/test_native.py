"""Our checkpoint file: the same weights back, and every damage named."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from sagan_deploy.checkpoints.native import HEADER_KEY, load_checkpoint, save_checkpoint
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.files import sha256
from tests.generators import TINY, inputs, tiny_checkpoint


def test_the_same_generator_comes_back(tmp_path):
    checkpoint = tiny_checkpoint()
    path = save_checkpoint(tmp_path / "g.safetensors", checkpoint)
    loaded = load_checkpoint(path)
    assert loaded.config == TINY
    assert loaded.class_names == ("class 0", "class 1", "class 2")
    assert loaded.provenance == ({"step": "test"},)
    assert loaded.sha256 == sha256(path)
    example = inputs(TINY, dtype=torch.float32)
    assert torch.equal(loaded.generator()(*example), checkpoint.generator()(*example))
    assert not loaded.generator().training


def test_equal_content_gives_equal_bytes_in_every_process(tmp_path):
    code = (
        "from tests.generators import tiny_checkpoint; from sagan_deploy.checkpoints.native import *;"
        "import sys; save_checkpoint(Path(sys.argv[1]), tiny_checkpoint())"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def header_of(**changes):
    from sagan_deploy.checkpoints.native import FORMAT
    from sagan_deploy.config import to_dict

    header = {"format": FORMAT, "config": to_dict(TINY), "class_names": [], "provenance": []} | changes
    return {HEADER_KEY: json.dumps(header)}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not a generator checkpoint"),
        (b"\x80\x04pickle", "not a generator checkpoint"),
        (b"\xff" * 100, "not a generator checkpoint"),
        (save({"w": torch.zeros(2)}), "not a generator checkpoint"),
        (save({"w": torch.zeros(2)}, header_of(format="other/1")), "format 'other/1'"),
        (save({"w": torch.zeros(2)}, header_of(config={"z_dim": -1})), "damaged header.*z_dim"),
        (save({"w": torch.zeros(2)}, header_of(config=[])), "damaged header"),
        (save({"w": torch.zeros(2)}, header_of(class_names=["a"])), "damaged header.*class_names"),
        (save({"w": torch.tensor([1.0, float("nan")])}, header_of()), "NaN or infinite"),
    ],
)
def test_foreign_and_damaged_files_are_one_clear_line(tmp_path, payload, message):
    path = tmp_path / "g.safetensors"
    path.write_bytes(payload)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    payload = path.read_bytes()
    for length in (7, 100, len(payload) // 2, len(payload) - 1):
        path.write_bytes(payload[:length])
        with pytest.raises(InputError):
            load_checkpoint(path)


def test_weights_of_another_shape_are_named():
    other = tiny_checkpoint(dataclasses.replace(TINY, widths=(32, 32, 16)))
    with pytest.raises(InputError, match=r"stages\.0\.block.* has shape .*; the config asks for"):
        dataclasses.replace(other, config=TINY).generator()
    fewer = dict(list(tiny_checkpoint().state.items())[1:])
    with pytest.raises(InputError, match="missing"):
        dataclasses.replace(tiny_checkpoint(), state=fewer).generator()


def test_class_names_must_match_the_classes():
    with pytest.raises(ConfigError, match="class_names lists 1"):
        dataclasses.replace(tiny_checkpoint(), class_names=("one",))


def test_reading_a_generator_does_not_disturb_the_callers_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    tiny_checkpoint().generator()
    assert torch.equal(torch.rand(1), expected)
