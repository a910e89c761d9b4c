"""Both spellings of shapes on command lines."""

import pytest

from exporters.errors import BadProfile
from exporters.shapes import parse_profile, parse_shapes
from exporters.specs import ShapeRange

BOTH = {"z": (1, 120), "labels": (1,)}


@pytest.mark.parametrize(
    "text",
    [
        "z:1x120,labels:1",
        "z:[1,120],labels:[1]",
        "z:[1, 120] labels:[1]",
        " z:1x120 , labels:[1] ",
        "z:1x120 labels:1",
    ],
)
def test_the_spellings_mean_the_same(text):
    assert parse_shapes(text) == BOTH


def test_names_may_hold_what_onnx_allows():
    assert parse_shapes("net/in.0:2x3") == {"net/in.0": (2, 3)}


@pytest.mark.parametrize(
    "text", ["", "z", "z:", "z:1x", "z:[1", "z:axb", "z:1x2,z:1x2", "z:1.5", "z:-1x2", "1x2", "z:1x2]"]
)
def test_what_is_no_shape_is_refused_with_both_spellings(text):
    with pytest.raises(BadProfile, match=r"write z:1x120,labels:1 or z:\[1,120\]|twice"):
        parse_shapes(text)


def test_three_texts_are_a_profile():
    assert parse_profile("z:1x8", "z:[4,8]", "z:8x8") == {"z": ShapeRange((1, 8), (4, 8), (8, 8))}
    with pytest.raises(BadProfile, match="same inputs"):
        parse_profile("z:1x8", "z:4x8", "y:8x8")
    with pytest.raises(BadProfile, match="min <= opt <= max"):
        parse_profile("z:5x8", "z:4x8", "z:8x8")
