"""Which public implementation wrote a file: every origin looks at the names of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sagan_deploy.checkpoints.containers import Candidate, candidates, foreign, says_ema
from sagan_deploy.checkpoints.origins import (
    ajbrock,
    heykeetae,
    huggingface_biggan,
    mimicry,
    mmgeneration,
    rosinality,
    studiogan,
    voletiv,
)
from sagan_deploy.checkpoints.origins.origin import Origin
from sagan_deploy.checkpoints.reading import OpenedFile
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.errors import ConfigError, InputError

OWN = "sagan-deploy"  # a checkpoint of this project
ORIGINS: dict[str, Origin] = {
    module.ORIGIN.name: module.ORIGIN
    for module in (
        heykeetae,
        voletiv,
        ajbrock,
        mimicry,
        studiogan,
        rosinality,
        mmgeneration,
        huggingface_biggan,
    )
}


def find_generator(opened: OpenedFile, name: str | None, weights: str | None) -> tuple[Origin, Candidate]:
    """The origin of a file and its generator's tensors; of several (raw and averaged) the wanted one.

    Args:
        opened: the file.
        name: the origin that the user is sure of, or None.
        weights: "ema" or "raw", or None for averaged ones where there are any.

    Raises:
        ConfigError: no origin has that name.
        InputError: nobody recognises the tensors, or somebody else does.
    """
    if name == OWN:
        raise InputError(f"{opened.path} is not a checkpoint of this project. Leave --from out to detect what it is.")
    if name is not None and name not in ORIGINS:
        raise ConfigError(f"--from knows no {name!r}. It knows: {', '.join(ORIGINS)}")
    found = [
        (origin, candidate)
        for candidate in candidates(opened)
        for origin in ORIGINS.values()
        if origin.recognises(Source(opened.path.name, candidate.tensors))
    ]
    if not found:
        raise InputError(_unrecognised(opened))
    if name is not None and name not in {origin.name for origin, _ in found}:
        raise InputError(
            f"{opened.path} is not a {name} file: its names are those of {found[0][0].name} "
            f"({found[0][0].title}). Leave --from out, or give --from {found[0][0].name}."
        )
    matching = [pair for pair in found if name in (None, pair[0].name)]
    return _wanted(opened, matching, weights)


def _wanted(
    opened: OpenedFile, found: Sequence[tuple[Origin, Candidate]], weights: str | None
) -> tuple[Origin, Candidate]:
    averaged = [pair for pair in found if pair[1].averaged]
    raw = [pair for pair in found if not pair[1].averaged]
    if says_ema(opened.path.name):
        averaged, raw = averaged or raw, []
    if weights == "ema" and not averaged:
        raise InputError(
            f"{opened.path} holds no averaged (EMA) weights; they may lie in another file (G_ema.pth, model=G_ema-...)."
        )
    if weights == "raw" and not raw:
        raise InputError(f"{opened.path} holds averaged (EMA) weights only; the raw ones lie in another file (G.pth).")
    return (averaged if averaged and weights != "raw" else raw)[0]


def _unrecognised(opened: OpenedFile) -> str:
    said = foreign(opened.content, opened.path.name)
    if said is not None:
        return f"{opened.path} {said}."
    names = [str(key) for key, value in opened.content.items() if isinstance(value, Tensor)] or list(opened.content)
    return (
        f"{opened.path} is of no known origin: its names begin with {', '.join(map(str, names[:4]))}. "
        f"Known: {', '.join(f'{o.name} ({o.title})' for o in ORIGINS.values())}."
    )
