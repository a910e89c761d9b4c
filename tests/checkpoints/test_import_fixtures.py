"""What the public classes wrote and drew, imported: the same pictures, and then every file that ships."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch

from sagan_deploy.build import build_plan, write_plan
from sagan_deploy.checkpoints import import_checkpoint, load_checkpoint, save_checkpoint
from sagan_deploy.checkpoints.importing import import_opened, open_checkpoint
from sagan_deploy.checkpoints.proof import prove, read_examples
from sagan_deploy.checkpoints.settings import parse_settings
from sagan_deploy.deploy import DeployOptions, deploy
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.compare import judge
from sagan_deploy.verify import verify_bundle
from tests import exports
from tests.checkpoints.cases import NAMES, fixture

# Read differently, these are the networks of a sibling.
TWINS = {
    "studiogan_stored_uv",
    "studiogan_ema",
    "hf_biggan_deep_t0p35",
    "hf_biggan_deep_t0p4",
    "heykeetae_dataparallel",
}


# In float64 all are compared with the original; the float32 file of a sibling would be the same graph once more.
FIRST_OF_ITS_ORIGIN = {fixture(name).origin: name for name in reversed(NAMES)}.values()


def test_every_public_implementation_has_a_fixture():
    from sagan_deploy.checkpoints.detection import ORIGINS

    assert {fixture(name).origin for name in NAMES} == set(ORIGINS)
    assert len(NAMES) == 21


@pytest.mark.parametrize("name", NAMES)
def test_the_import_draws_the_originals_pictures(name, tmp_path):
    case = fixture(name)
    imported = import_checkpoint(case.files, settings=case.settings)
    assert imported.report.origin == case.origin
    # Through the file, as everything that comes after reads it.
    generator = load_checkpoint(save_checkpoint(tmp_path / "g.safetensors", imported.checkpoint)).generator()
    with np.load(case.examples) as examples:
        z, images = torch.from_numpy(examples["z"]).double(), examples["images"]
        labels = torch.from_numpy(examples["labels"]) if generator.config.conditional else None
    with torch.inference_mode():
        drawn = generator(z, labels).numpy()
    assert np.abs(drawn - images).max() <= 1e-9 * np.abs(images).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_proof_agrees(name):
    case = fixture(name)
    values = parse_settings(case.settings)
    opened = open_checkpoint(case.files)
    imported = import_opened(opened, values)
    proof = prove(opened, imported, read_examples(case.examples, imported.checkpoint.config))
    assert proof.passed
    assert proof.error < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_what_was_imported_is_remembered(name):
    case = fixture(name)
    imported = import_checkpoint(case.files, settings=case.settings)
    (step,) = imported.checkpoint.provenance
    assert (step["step"], step["origin"]) == ("import", case.origin)
    assert [file["name"] for file in step["files"]] == [file.name for file in case.files]
    assert all(len(file["sha256"]) == 64 for file in step["files"])
    assert step["given"] == parse_settings(case.settings)
    assert json.loads(json.dumps(step)) == step


USUALLY = ("studiogan",)  # the rest is for make test-all


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in USUALLY else pytest.mark.exhaustive)
        for name in NAMES
        if name not in TWINS
    ],
)
def test_every_import_exports_builds_and_passes_parity(name, tmp_path):
    case = fixture(name)
    imported = import_checkpoint(case.files, settings=case.settings).checkpoint
    checkpoint = load_checkpoint(save_checkpoint(tmp_path / "g.safetensors", imported))
    files = []
    for precision in ("fp32", "fp16") if name in FIRST_OF_ITS_ORIGIN else ("fp16",):
        path = tmp_path / f"g.{precision}.onnx"
        path.write_bytes(exports.export_once(checkpoint, InferenceOptions(precision=precision)).payload)
        files.append(path)
    report = judge(checkpoint, files, count=4)
    assert report.passed, [leg.reason for leg in report.legs]
    assert [leg.status for leg in report.legs] == ["passed"] * len(report.legs)
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: the plan was not built")
    built = build_plan(files[-1], targets=("all-rtx",), flavour="rtx", min_batch=1, opt_batch=1, max_batch=2)
    write_plan(tmp_path / "g.plan", built)
    fusable = checkpoint.config.attention.attention_map == "standard"
    assert built.manifest.artifacts[0].plan.fused_attention == (
        len(checkpoint.config.attention_after) if fusable else 0
    )


@pytest.mark.slow
def test_an_import_becomes_a_bundle_that_verifies_and_says_where_it_comes_from(tmp_path):
    case = fixture("mmgeneration")
    imported = import_checkpoint(case.files, settings=case.settings).checkpoint
    checkpoint = load_checkpoint(save_checkpoint(tmp_path / "g.safetensors", imported))
    with exports.shared():
        made = deploy(checkpoint, tmp_path / "bundle", DeployOptions(precisions=("fp16",), targets=(), images=4))
    assert made.manifest.provenance[0]["origin"] == "mmgeneration"
    (artifact,) = made.manifest.artifacts
    # The limits that parity derived travel: other machines replay the golden images with them.
    assert artifact.limits is not None
    assert artifact.limits.rel_l2 > 0.0051
    assert verify_bundle(tmp_path / "bundle").passed


def test_the_header_keeps_double_precision(tmp_path):
    case = fixture("mimicry32")
    path = save_checkpoint(tmp_path / "g.safetensors", import_checkpoint(case.files).checkpoint)
    state = load_checkpoint(path).state
    assert {tensor.dtype for tensor in state.values()} == {torch.float64, torch.int64}
    assert dataclasses.replace(load_checkpoint(path), sha256=None).provenance[0]["origin"] == "mimicry"
