"""The first faulty stage: broken files name the stage that was broken, intact ones none."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sagan_deploy.errors import InputError
from sagan_deploy.model.inference import InferenceOptions
from sagan_deploy.parity.emulation import emulated
from sagan_deploy.parity.localise import stage_errors
from tests.exports import export_once
from tests.generators import CONFIGS, inputs, tiny_checkpoint

CONFIG = CONFIGS["biggan"]  # four stages, attention in the third
LIMITS = {"fp32": 1e-5, "fp16": 2e-2}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small lose time with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained():
    return tiny_checkpoint(CONFIG)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request, trained):
    """Precision, ONNX model to run, stages, z and labels."""
    result = export_once(trained, InferenceOptions(precision=request.param))
    payload = result.payload if request.param == "fp32" else emulated(result.payload)
    z, labels = (value.numpy() for value in inputs(CONFIG, 10, torch.float32))  # more than one batch
    return request.param, payload, json.loads(result.metadata["sagan_deploy.stages"]), z, labels


def with_weight(payload, prefix, change):
    """The model with the first weight of a module changed; which one is asserted to exist."""
    model = onnx.load_from_string(payload)
    tensor = next(t for t in model.graph.initializer if t.name.startswith(prefix) and len(t.dims) in (2, 4))
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


def test_an_intact_file_has_no_faulty_stage(exported, trained):
    precision, payload, stages, z, labels = exported
    limit = LIMITS[precision]
    assert list(stages) == ["stem", "stages.0", "stages.1", "stages.2"]
    errors = stage_errors(payload, trained.generator(), stages, z, labels)
    assert all(0 < error <= limit for error in errors.values())
    if precision == "fp16":
        assert min(errors.values()) > 1e-5  # the values are the rounded ones


@pytest.mark.parametrize("stage", ["stages.0", "stages.1", "stages.2"])
def test_one_broken_weight_names_its_stage(exported, trained, stage):
    precision, payload, stages, z, labels = exported
    limit = LIMITS[precision]

    def halve(values):
        values[0] *= 0.25  # one output channel

    broken = with_weight(payload, stage + ".", halve)
    errors = stage_errors(broken, trained.generator(), stages, z, labels)
    assert next(path for path, error in errors.items() if error > limit) == stage
    assert len(broken) == len(payload)


def test_a_number_that_is_none_is_a_fault(exported, trained):
    _, payload, stages, z, labels = exported

    def spoil(values):
        values[0] = np.nan

    broken = with_weight(payload, "stages.1.", spoil)
    errors = stage_errors(broken, trained.generator(), stages, z, labels)
    assert np.isfinite([errors["stem"], errors["stages.0"]]).all()
    assert errors["stages.1"] == float("inf")


def test_the_generator_itself_is_left_as_it_was(exported, trained):
    _, payload, stages, z, labels = exported
    generator = trained.generator()
    stage_errors(payload, generator, stages, z[:2], labels[:2])
    assert next(generator.parameters()).dtype == torch.float32  # a copy was run, and it carries the hooks
    assert not any(module._forward_hooks for module in generator.modules())


def test_the_worst_image_counts_and_not_the_mean(exported, trained):
    _, payload, stages, z, labels = exported

    def spoil(values):
        values[4] *= 0.5

    labels = np.array([0] * 8 + [4, 0])  # the class of one image alone, in the second batch
    broken = with_weight(payload, "embedding.weight", spoil)
    generator = trained.generator()
    errors = stage_errors(broken, generator, stages, z, labels)
    alone = stage_errors(broken, generator, stages, z[8:9], labels[8:9])
    assert alone["stages.0"] > 0.05
    assert errors["stages.0"] == pytest.approx(alone["stages.0"], rel=0.01)


def test_stages_of_another_file_are_refused(exported, trained):
    _, payload, stages, z, labels = exported
    with pytest.raises(InputError, match="no value nowhere"):
        stage_errors(payload, trained.generator(), {"stem": "nowhere"}, z, labels)
    with pytest.raises(InputError, match=r"no module 'stages\.9'"):
        stage_errors(payload, trained.generator(), {"stages.9": stages["stem"]}, z, labels)
    with pytest.raises(InputError, match="shape"):
        stage_errors(payload, trained.generator(), {"stages.0": stages["stem"]}, z, labels)
    with pytest.raises(InputError, match="no ONNX model"):
        stage_errors(b"\x01nothing", trained.generator(), stages, z, labels)


def test_generators_without_classes():
    config = CONFIGS["unconditional"]
    checkpoint = tiny_checkpoint(config)
    result = export_once(checkpoint)
    stages = json.loads(result.metadata["sagan_deploy.stages"])
    (z,) = inputs(config, 2, torch.float32)
    errors = stage_errors(result.payload, checkpoint.generator(), stages, z.numpy(), None)
    assert max(errors.values()) < 1e-5
