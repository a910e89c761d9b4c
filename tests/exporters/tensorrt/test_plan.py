"""The first 64 bytes of a plan."""

import struct

import pytest

from exporters.tensorrt.plan import PlanHeader


def header(magic, version=(1, 7, 1, 116), total=1000, mask=0, weights=0):
    head = magic + struct.pack("<I8xQ4B4xQ16xQ", 0, total, *version, mask, weights)
    assert len(head) == 64
    return head


def test_rtx():
    found = PlanHeader.parse(header(b"vtrt", mask=0b0010_1010, weights=7) + b"engine")
    assert found == PlanHeader("rtx", (1, 7, 1, 116), 1000, ((8, 0), (8, 9), (12, 1)), 7)


def test_classic_has_neither_mask_nor_weights():
    found = PlanHeader.parse(memoryview(header(b"ftrt", (11, 4, 0, 106), mask=2**40, weights=9)))
    assert found == PlanHeader("tensorrt", (11, 4, 0, 106), 1000, None, None)


@pytest.mark.parametrize("payload", [b"", b"vtrt", b"\x08\x0a" * 40])
def test_something_else(payload):
    with pytest.raises(ValueError, match="no TensorRT plan: it begins with"):
        PlanHeader.parse(payload)
