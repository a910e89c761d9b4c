"""Specs refuse nonsense when they are made, with the values."""

import pytest

from exporters.errors import BadProfile, SpecError
from exporters.specs import EngineSpec, OnnxSpec, ShapeRange


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 8), (4, 8), (2, 8)), "1 <= min <= opt <= max"),
        (((0, 8), (1, 8), (2, 8)), "1 <= min"),
        (((1,), (1, 8), (1, 8)), "same number of axes"),
    ],
)
def test_shape_range(shapes, words):
    with pytest.raises(BadProfile, match=words):
        ShapeRange(*shapes)


def test_one_batch_for_all_inputs():
    z, labels = ShapeRange((1, 8), (4, 8), (8, 8)), ShapeRange((1,), (4,), (6,))
    with pytest.raises(BadProfile, match="z 1/4/8, labels 1/4/6"):
        EngineSpec(profiles=({"z": z, "labels": labels},))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ()}, "at least one GPU"),
        ({"workspace_bytes": 0}, "workspace_bytes"),
        ({"precision": "int8"}, "int8"),
        ({"fused_attention": -1}, "fused_attention"),
        ({"weights": "none"}, "fixed, refittable or stripped"),
    ],
)
def test_engine_spec(changes, words):
    with pytest.raises(SpecError, match=words):
        EngineSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_names": ()}, "names of their own"),
        ({"output_names": ("z",)}, "names of their own"),
        ({"dynamic_axes": {"x": {0: "n"}}}, "dynamic_axes names x"),
        ({"opset": 17}, "at least 18"),
        ({"metadata": {"steps": 3}}, "must be text"),
    ],
)
def test_onnx_spec(changes, words):
    with pytest.raises(SpecError, match=words):
        OnnxSpec(**({"input_names": ("z",), "output_names": ("images",)} | changes))


def test_specs_do_not_change_with_what_they_were_made_from():
    axes, metadata = {"z": {0: "n"}}, {"a": "1"}
    spec = OnnxSpec(("z",), ("images",), axes, metadata=metadata)
    axes["z"][1] = "m"
    metadata["b"] = "2"
    assert dict(spec.dynamic_axes["z"]) == {0: "n"}
    assert dict(spec.metadata) == {"a": "1"}
