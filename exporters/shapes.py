"""Shapes as people write them on command lines: trtexec's ``z:1x120,labels:1``, polygraphy's ``z:[1,120]``."""

from __future__ import annotations

import re

from exporters.errors import BadProfile
from exporters.specs import Profile, ShapeRange

_ENTRY = re.compile(
    r"(?P<name>[^\s:,][^:]*):(?:(?P<times>\d+(?:x\d+)*)|\[(?P<list>\s*\d+\s*(?:,\s*\d+\s*)*)\])\s*(?:,|\s|$)"
)


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Shapes by input name.

    Raises:
        BadProfile: the text is of neither form, or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    position, stripped = 0, text.strip()
    while position < len(stripped):
        found = _ENTRY.match(stripped, position)
        if found is None:
            raise BadProfile(
                f"{stripped[position:]!r} in {text!r} is no shape; write z:1x120,labels:1 or z:[1,120],labels:[1]"
            )
        name, sizes = found["name"].strip(), found["times"] or found["list"]
        if name in shapes:
            raise BadProfile(f"{text!r} gives {name} twice")
        shapes[name] = tuple(int(size) for size in re.split(r"[x,]", sizes))
        position = found.end()
        while position < len(stripped) and stripped[position] in ", ":
            position += 1
    if not shapes:
        raise BadProfile(f"{text!r} names no input; write z:1x120,labels:1 or z:[1,120],labels:[1]")
    return shapes


def parse_profile(smallest: str, best: str, largest: str) -> Profile:
    """A profile from three such texts.

    Raises:
        BadProfile: as `parse_shapes`, or the three name different inputs.
    """
    low, middle, high = (parse_shapes(text) for text in (smallest, best, largest))
    if not set(low) == set(middle) == set(high):
        raise BadProfile(f"min, opt and max must name the same inputs, not {smallest!r}, {best!r}, {largest!r}")
    return {name: ShapeRange(low[name], middle[name], high[name]) for name in low}
