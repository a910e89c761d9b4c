"""The files of a run, each written whole: a kill at any moment leaves a state to go on from.

``training.safetensors`` is all that a resume needs, ``generator.safetensors`` the averaged generator, ``states/`` holds
older states when more than one is kept, ``best.safetensors`` the generator with the best measured quality.
"""

from __future__ import annotations

import re
from pathlib import Path

from sagan_deploy.errors import InputError
from sagan_deploy.files import keep_as, refuse_existing, remove, write_bytes
from sagan_deploy.training.board import BOARD_NAME
from sagan_deploy.training.log import JSON_LOG_NAME, LOG_NAME
from sagan_deploy.training.state import STATE_NAME, read_run

CHECKPOINT_NAME = "generator.safetensors"
BEST_NAME = "best.safetensors"
SAMPLES_NAME = "samples"
STATES_NAME = "states"
_STEP = re.compile(r"step_(\d{6,})\.safetensors")


def check_out(out: Path, *, force: bool) -> None:
    """Refuse a folder that a new run may not use; an empty one will do. Worth asking before images are read.

    Raises:
        InputError: `out` holds something already, and `force` is not set or it is no run.
    """
    if not (out.is_dir() and not any(out.iterdir())):
        refuse_existing(out, marker=LOG_NAME, force=force)


def has_state(out: Path) -> bool:
    """Whether there is a run to resume."""
    return (out / STATE_NAME).exists()


def clear(out: Path, *, force: bool) -> None:
    """Make room for a new run. Only files of a run are ever removed, whatever else lies beside them."""
    check_out(out, force=force)
    single = (STATE_NAME, CHECKPOINT_NAME, BEST_NAME, JSON_LOG_NAME, LOG_NAME)
    pictures, curves = (out / SAMPLES_NAME).glob("step_*.png"), (out / BOARD_NAME).glob("events.out.tfevents.*")
    for path in (*(out / name for name in single), *pictures, *curves, *kept_states(out).values()):
        remove(path)
    sweep(out)


def sweep(out: Path) -> None:
    """Remove the unfinished files that a killed writer has left under their temporary names."""
    for name in (STATE_NAME, CHECKPOINT_NAME, BEST_NAME, LOG_NAME, JSON_LOG_NAME):
        for path in out.glob(f".{name}.*"):
            remove(path)
    for path in (*(out / SAMPLES_NAME).glob(".step_*.png.*"), *(out / STATES_NAME).glob(".step_*.safetensors.*")):
        remove(path)


def kept_states(out: Path) -> dict[int, Path]:
    """Older states by step, oldest first."""
    found = {int(m[1]): path for path in (out / STATES_NAME).glob("step_*") if (m := _STEP.fullmatch(path.name))}
    return dict(sorted(found.items()))


def state_of_step(out: Path, step: int | None) -> Path:
    """Where the state of a step is; None: of the last one.

    Raises:
        InputError: it is not kept; lists the steps that are.
    """
    last = out / STATE_NAME
    if step is None:
        return last
    kept = kept_states(out)
    if step in kept:
        return kept[step]
    if last.exists() and read_run(last).step == step:
        return last
    there = [*kept, *([read_run(last).step] if last.exists() else [])]
    raise InputError(
        f"{out} holds no state of step {step}; it has those of {', '.join(map(str, there)) or 'no step'}. "
        "More are kept with --keep."
    )


def write_state(out: Path, payload: bytes, *, replaces: int | None, keep: int) -> None:
    """Put a new state in place; the one before, of step `replaces`, stays among the `keep` last ones."""
    if replaces is not None and keep > 1 and (out / STATE_NAME).exists():
        keep_as(out / STATE_NAME, out / STATES_NAME / f"step_{replaces:06d}.safetensors")
    write_bytes(out / STATE_NAME, payload)
    for path in list(kept_states(out).values())[: -(keep - 1) or None]:
        remove(path)


def forget_after(out: Path, step: int) -> None:
    """Remove the kept states of later steps: the run goes on from `step` and writes its own."""
    for later, path in kept_states(out).items():
        if later >= step:
            remove(path)
