"""The main job on real images, end to end: train, measure, export, build, judge, bundle, and show it all."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagan_deploy.checkpoints.native import Checkpoint, load_checkpoint
from sagan_deploy.deploy import Deployment, DeployOptions, deploy
from sagan_deploy.errors import ConfigError
from sagan_deploy.files import new_folder, refuse_existing, write_bytes, write_text
from sagan_deploy.images import encode_png, grid, to_uint8
from sagan_deploy.presets import preset
from sagan_deploy.progress import Progress, silent
from sagan_deploy.reports.html import render
from sagan_deploy.runtime import load
from sagan_deploy.training.data import Dataset, open_dataset
from sagan_deploy.training.quality import QualityReport, evaluate_quality, train_classifier
from sagan_deploy.training.run import TrainResult, train
from sagan_deploy.verify import VerifyResult, verify_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARKER = "quickstart.json"
_COLUMNS = 10


@dataclass(frozen=True)
class Quickstart:
    """What the main job made in `folder`; `seconds` per step."""

    folder: Path
    training: TrainResult
    quality: QualityReport
    deployment: Deployment
    verified: VerifyResult
    seconds: dict[str, float]


def quickstart(
    out: Path,
    *,
    data: str = "robots",
    minutes: float = 3.0,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> Quickstart:
    """Train a small class-conditional SAGAN and take it all the way to a judged bundle, on any machine.

    Args:
        out: the folder that appears at the end: ``run/``, ``bundle/``, ``samples.png``, ``report.html``.
        data: a built-in set of images, or any `open_dataset` source with classes.
        minutes: time for training; the rest takes about two more.
        seed: of everything random.
        force: replace an earlier quickstart.
        progress: told about every step.

    Raises:
        CheckFailed: an exported file does not draw what PyTorch draws.
        ConfigError, InputError, MissingError: as the single steps.
    """
    out = Path(out)
    refuse_existing(out, marker=MARKER, force=force)
    seconds: dict[str, float] = {}
    with new_folder(out, marker=MARKER, force=force) as folder:
        chosen = preset("sagan32")
        with _timed(seconds, "read images"):
            images = open_dataset(data, chosen.generator.image_size, progress=progress)
        if not images.num_classes:
            raise ConfigError(f"--data {data} has no classes; the quickstart shows and measures one row per class")
        with _timed(seconds, "train"):
            training = train(chosen, images, folder / "run", minutes=minutes, seed=seed, progress=progress)
        checkpoint = load_checkpoint(training.checkpoint)
        deployment = deploy(checkpoint, folder / "bundle", DeployOptions(seed=seed), progress=progress)
        seconds |= deployment.seconds
        with _timed(seconds, "verify"):
            verified = verify_bundle(folder / "bundle", progress=progress)
        with _timed(seconds, "measure quality"):
            quality = _quality(folder / "bundle", images, seed, progress)
        made = Quickstart(out, training, quality, deployment, verified, seconds)
        _write_results(folder, made, checkpoint, images, seed)
    return made


def summary(made: Quickstart) -> dict[str, Any]:
    """The results as plain JSON values."""
    return {
        "training": {
            "steps": made.training.steps,
            "seconds": made.training.seconds,
            "images_per_second": made.training.images_per_second,
        },
        "quality": made.quality.to_dict(),
        "artifacts": [
            {
                "path": f"bundle/{artifact.path}",
                "precision": artifact.precision,
                "bytes": artifact.size,
                "sha256": artifact.sha256,
                "verdict": artifact.verdict.status,
                "reason": artifact.verdict.reason,
            }
            for artifact in made.deployment.manifest.artifacts
        ],
        "skipped": made.deployment.skipped,
        "verified": made.verified.to_dict(),
        "seconds": made.seconds,
    }


def _write_results(folder: Path, made: Quickstart, checkpoint: Checkpoint, images: Dataset, seed: int) -> None:
    drawn = _drawn(folder / "bundle", seed)
    real = _real(images)
    write_bytes(folder / "samples.png", encode_png(grid(drawn, _COLUMNS)))
    write_text(
        folder / "report.html",
        render(
            "quickstart.html.j2",
            made=made,
            manifest=made.deployment.manifest,
            parity=made.deployment.report,
            data=images,
            class_names=checkpoint.class_names,
            samples=encode_png(grid(drawn, _COLUMNS)),
            real=encode_png(grid(real, _COLUMNS)),
        ),
    )
    write_text(folder / MARKER, json.dumps(summary(made), indent=2, default=str) + "\n")


def _quality(bundle: Path, images: Dataset, seed: int, progress: Progress) -> QualityReport:
    """The quality of what ships: the images are drawn by the bundle, not by the network that was trained."""
    classifier = train_classifier(images, seed=seed, progress=progress)
    with load(bundle) as generator:
        return evaluate_quality(generator, generator.config.z_dim, images, classifier, seed=seed, progress=progress)


def _drawn(bundle: Path, seed: int) -> NDArray[np.uint8]:
    """A row of samples per class, drawn by the bundle itself as production would."""
    with load(bundle) as generator:
        classes = generator.config.num_classes
        labels = np.repeat(np.arange(classes), _COLUMNS)
        z, _ = generator.sample_inputs(len(labels), seed=seed)
        images = generator(z, labels)
    return images if images.dtype == np.uint8 else to_uint8(images)


def _real(images: Dataset) -> NDArray[np.uint8]:
    """A row of real images per class."""
    assert images.labels is not None
    rows = [np.flatnonzero(images.labels == label)[:_COLUMNS] for label in range(images.num_classes)]
    return np.ascontiguousarray(images.images[np.concatenate(rows)].transpose(0, 2, 3, 1))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
