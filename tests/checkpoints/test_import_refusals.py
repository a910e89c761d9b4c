"""Files that are no generator of anybody: one clear line each, and nothing in them is ever carried out."""

import ast
import contextlib
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sagan_deploy.checkpoints import import_checkpoint, save_checkpoint
from sagan_deploy.errors import ConfigError, InputError
from tests.checkpoints.cases import fixture
from tests.checkpoints.peers import ajbrock, huggingface, mmgeneration, voletiv
from tests.generators import TINY, tiny_checkpoint

PAYLOAD, _ = voletiv.make(seed=1)
STATE = PAYLOAD["G_state_dict"]


def saved(tmp_path, content, name="ckpt.pth", **options):
    path = tmp_path / name
    torch.save(content, path, **options)
    return path


def refusal(*arguments, **options):
    with pytest.raises((InputError, ConfigError)) as caught:
        import_checkpoint(*arguments, **options)
    return str(caught.value)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "old", "plain-2", "plain-4", "in-options"])
def test_hostile_pickles_run_nothing(kind, tmp_path):
    trace = tmp_path / "trace"
    content = {"G_state_dict": STATE, "extra": Touch(trace)}
    path = tmp_path / "ckpt.pth"
    if kind == "in-options":
        torch.save({"itr": 1, "config": {"G_activation": Touch(trace)}}, path)
    elif kind.startswith("plain"):
        path.write_bytes(pickle.dumps(content, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    text = refusal(path)
    assert "would run code" in text
    assert not trace.exists()
    # The files are what they claim to be: read the other way, they do run.
    with path.open("rb") as stream:
        (pickle.load(stream) if kind.startswith("plain") else torch.load(stream, weights_only=False))
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"G_state_dict": STATE, "best": np.float64(3.0)}, 'torch.save(c["G_state_dict"], "ckpt_weights.pth")'),
        ({"state_dict": STATE, "best": np.float64(3.0)}, 'torch.save(c["state_dict"], "ckpt_weights.pth")'),
        ({"G": torch.nn.Linear(2, 2)}, 'torch.save(c["G"].state_dict(), "ckpt_weights.pth")'),
        (torch.nn.Linear(2, 2), "c.state_dict()"),
    ],
)
@pytest.mark.parametrize("modern", [True, False])
def test_objects_are_refused_with_the_two_lines_that_convert_them(tmp_path, content, line, modern):
    text = refusal(saved(tmp_path, content, _use_new_zipfile_serialization=modern))
    assert "Python objects (" in text
    assert text.count("\n") == 2
    assert 'torch.load("ckpt.pth", map_location="cpu", weights_only=False)' in text
    assert line in text


def test_a_files_name_does_not_become_code_in_the_lines_to_copy(tmp_path):
    name = 'x"); print("run"); (".pth'
    lines = refusal(saved(tmp_path, {"G": torch.nn.Linear(2, 2)}, name)).splitlines()[1:]
    calls = [node for node in ast.walk(ast.parse("\n".join(map(str.strip, lines)))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) == "print"]


def test_the_converted_file_imports(tmp_path):
    path = saved(tmp_path, {"G_state_dict": STATE, "best": np.float64(3.0)})
    lines = refusal(path).splitlines()[1:]
    with contextlib.chdir(tmp_path):
        exec("\n".join(line.strip() for line in lines), {})
    assert import_checkpoint(tmp_path / "ckpt_weights.pth").report.origin == "voletiv"


def test_old_files_are_read(tmp_path):
    assert import_checkpoint(saved(tmp_path, PAYLOAD, _use_new_zipfile_serialization=False)).report.origin == "voletiv"


def test_safetensors_of_the_same_names_are_read(tmp_path):
    case = fixture("ajbrock_biggan")
    state = torch.load(case.files[0], weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "G_ema.safetensors")
    ours, theirs = import_checkpoint(tmp_path / "G_ema.safetensors"), import_checkpoint(case.files)
    assert all(torch.equal(tensor, theirs.checkpoint.state[name]) for name, tensor in ours.checkpoint.state.items())


def with_(**changes):
    state = dict(STATE)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return {"G_state_dict": state}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAYLOAD["D_state_dict"], ["discriminator"]),
        (mmgeneration.make(seed=1)[0] | {"state_dict": {"discriminator.x.weight": torch.zeros(2)}}, ["discriminator"]),
        ({"state": {}, "param_groups": []}, ["optimizer", "G_ema.pth"]),
        ({"itr": 1, "config": {"G_ch": 4}}, ["options and no weights"]),
        ({"some.weight": torch.zeros(2)}, ["no known origin", "some.weight", "studiogan"]),
        ({"trunk.0.conv1.weight_orig": torch.zeros(2)}, ["Lornatang"]),
        ({}, ["no tensors"]),
        ({"epoch": 3}, ["no tensors"]),
        ([1, 2], ["a list"]),
        (torch.zeros(2), ["a Tensor"]),
        (
            with_(block2__snconv2d1__bias=None, bn__weight=None, more__weight=torch.zeros(2)),
            ["Missing: block2.snconv2d1.bias, bn.weight", "Left over: more.weight"],
        ),
        (with_(more__weight=torch.zeros(2)), ["Missing: nothing", "Left over: more.weight"]),
        (with_(bn__weight=None), ["Missing: bn.weight", "Left over: nothing"]),
        (with_(block3__snconv2d2__bias=torch.zeros(9)), ["block3.snconv2d2.bias (9,)", "contradict"]),
        (with_(block3__snconv2d1__weight_orig=torch.zeros(9, 3, 3, 3)), ["block3.snconv2d1", "9 rows"]),
        (with_(snlinear0__weight_orig=torch.zeros(7, 12)), ["snlinear0", "contradict"]),
        (with_(block3__snconv2d1__weight_orig=torch.zeros(9)), ["block3.snconv2d1.weight_orig (9,)", "contradict"]),
        (with_(block3__cond_bn1__embed__weight=torch.zeros(5, 9)), ["block3.cond_bn1.embed.weight"]),
        (with_(bn__weight=torch.full((2,), float("nan"))), ["NaN", "bn.weight"]),
        (with_(bn__weight=torch.zeros(2, dtype=torch.complex64)), ["bn.weight", "real"]),
        (with_(bn__weight=torch.zeros(2).to_sparse()), ["bn.weight", "plain array"]),
        (with_(snlinear0__weight_u=torch.zeros(512)), ["spectral norm is 0"]),
        (with_(self_attn__snconv1x1_phi__weight_orig=torch.zeros(3, 8, 1, 1)), ["self_attn.snconv1x1_phi", "3 rows"]),
    ],
)
def test_what_is_no_generator_is_named(tmp_path, content, words):
    text = refusal(saved(tmp_path, content))
    assert [word for word in words if word not in text] == []
    assert "\n" not in text


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"vtrt" + b"\x00" * 100, "TensorRT plan"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "unpack it first"),
        (b"hello, world", "no PyTorch file"),
        (b'{"layers": ', "begins like JSON"),
        (b'{"layers": []}', "holds no tensors"),
        (b"\x80\x02garbage", "would run code|damaged"),
    ],
)
def test_other_kinds_of_file_are_named(tmp_path, payload, words):
    path = tmp_path / "file.pth"
    path.write_bytes(payload)
    with pytest.raises(InputError, match=words) as caught:
        import_checkpoint(path)
    assert str(path) in str(caught.value)


def test_zip_archives_of_something_else_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "notes.txt" in refusal(tmp_path / "a.zip")
    np.savez(tmp_path / "io.npz", z=np.zeros(3))
    assert "NumPy archive" in refusal(tmp_path / "io.npz")


@pytest.mark.parametrize("modern", [True, False])
def test_every_truncation_is_noticed(tmp_path, modern):
    path = saved(tmp_path, PAYLOAD, _use_new_zipfile_serialization=modern)
    payload = path.read_bytes()
    for length in (1, 50, 1000, len(payload) // 2, len(payload) - 1):
        path.write_bytes(payload[:length])
        text = refusal(path)
        assert "\n    import torch" not in text or "damaged" in text


def test_missing_files_and_folders_are_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pth")
    saved(tmp_path, {}, "G_ema.pth")
    assert "G_ema.pth" in refusal(tmp_path)


def test_a_wrong_origin_is_refused_with_the_right_one(tmp_path):
    text = refusal(saved(tmp_path, PAYLOAD), origin="mimicry")
    assert "not a mimicry file" in text
    assert "--from voletiv" in text
    assert "knows no 'stylegan'" in refusal(saved(tmp_path, PAYLOAD), origin="stylegan")
    assert "not a checkpoint of this project" in refusal(saved(tmp_path, PAYLOAD), origin="sagan-deploy")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"colour": "rgb"}, "knows no 'colour'"),
        ({"norm_eps": "-1"}, "positive number"),
        ({"norm_eps": "nan"}, "positive number"),
        ({"norm_eps": True}, "positive number"),
        ({"gain_offset": "2"}, "0 or 1"),
        ({"truncation": 0.5}, "no effect"),
        ({"activation_slope": 0.1}, "no effect"),
        ({"resolution": 64}, "images of 128 pixels"),
        ({"weights": "ema"}, "no averaged"),
        ({"channel_order": "grb"}, "rgb, bgr"),
    ],
)
def test_settings_that_make_no_sense_here_are_refused(tmp_path, settings, words):
    assert words in refusal(saved(tmp_path, PAYLOAD), settings=settings)


def test_depth_that_cannot_be_seen_must_be_given(tmp_path):
    payload, _ = ajbrock.make(seed=1, model="deep", resolution=32)
    path = saved(tmp_path, payload, "G.pth")
    assert "--set depth=N" in refusal(path)
    assert "does not fit" in refusal(path, settings={"depth": 4})


def test_gain_offsets_of_condition_vectors_are_fixed(tmp_path):
    payload, _ = ajbrock.make(seed=1, model="biggan")
    assert "gain_offset must be 1" in refusal(saved(tmp_path, payload, "G.pth"), settings={"gain_offset": 0})


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    first, options = ajbrock.make(seed=1)
    path = saved(tmp_path, first, "G.pth")
    other = saved(tmp_path, ajbrock.training_state(options | {"resolution": 128}), "state_dict.pth")
    assert "different runs" in refusal([path, other])
    assert "one file of weights" in refusal([path, path])
    (tmp_path / "config.json").write_text(json.dumps({"layers": []}))
    assert "none of BigGAN-PyTorch's options" in refusal([path, tmp_path / "config.json"])
    assert "options and no weights" in refusal(tmp_path / "config.json")
    assert "none that is read" in refusal([saved(tmp_path, PAYLOAD), tmp_path / "config.json"])
    hub, options = huggingface.make(seed=1)
    assert "expected layers" in refusal([saved(tmp_path, hub, "p.bin"), tmp_path / "config.json"])
    (tmp_path / "config.json").write_text(json.dumps(options["config"] | {"z_dim": 9}))
    assert "z_dim 9" in refusal([tmp_path / "p.bin", tmp_path / "config.json"])


def test_only_the_wanted_weights_are_taken(tmp_path):
    payload, _ = ajbrock.make(seed=1)
    assert "averaged (EMA) weights only" in refusal(saved(tmp_path, payload, "G_ema.pth"), settings={"weights": "raw"})
    assert import_checkpoint(tmp_path / "G_ema.pth").report.detected["weights"] == "averaged (EMA)"
    assert import_checkpoint(saved(tmp_path, payload, "G.pth")).report.detected["weights"] == "raw"


def test_our_own_checkpoint_comes_back_as_it_is(tmp_path):
    path = save_checkpoint(tmp_path / "g.safetensors", tiny_checkpoint())
    imported = import_checkpoint(path)
    assert imported.report.origin == "sagan-deploy"
    assert imported.checkpoint.config == TINY
    assert imported.checkpoint.provenance == ({"step": "test"},)
    assert "no effect" in refusal(path, settings={"norm_eps": 1e-4})
    assert "without --from" in refusal(path, origin="mimicry")


def test_attention_of_the_first_week_is_refused_by_name(tmp_path):
    state = torch.load(fixture("heykeetae").files[0], weights_only=True)
    state = {key: tensor for key, tensor in state.items() if not key.startswith("attn")}
    state["attn1.f_.weight"] = torch.zeros(2)
    assert "before 2018-06-08" in refusal(saved(tmp_path, state, "1_G.pth"))
