"""A small checkpoint on disk and its exported files, made once."""

import pytest

from sagan_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from sagan_deploy.model.inference import InferenceOptions
from tests.exports import export_once
from tests.generators import tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "g.safetensors"
    return load_checkpoint(save_checkpoint(path, tiny_checkpoint()))


@pytest.fixture(scope="session")
def exported(checkpoint):
    """Payloads by name: fp32, fp16, uint8."""
    return {
        "fp32": export_once(checkpoint).payload,
        "fp16": export_once(checkpoint, InferenceOptions(precision="fp16")).payload,
        "uint8": export_once(checkpoint, InferenceOptions(output="uint8")).payload,
    }
