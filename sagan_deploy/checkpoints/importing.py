"""`import_checkpoint`: what a public implementation saved, as a checkpoint of ours that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sagan_deploy.checkpoints.containers import Candidate, says_ema
from sagan_deploy.checkpoints.detection import OWN, find_generator
from sagan_deploy.checkpoints.native import Checkpoint
from sagan_deploy.checkpoints.origins.origin import Origin, OriginConfig, Translation
from sagan_deploy.checkpoints.parts import Part, account
from sagan_deploy.checkpoints.reading import OpenedFile, open_file
from sagan_deploy.checkpoints.settings import Settings, Value, parse_settings
from sagan_deploy.checkpoints.source import Source
from sagan_deploy.config import GeneratorConfig
from sagan_deploy.errors import ConfigError, InputError


@dataclass(frozen=True)
class ImportReport:
    """What was found, what was taken for granted, and what a user should look at.

    `given` is what the user said, `configured` what the origin's own config file says; `assumed` maps what nobody
    said to its value and the reason.
    """

    origin: str
    title: str
    files: tuple[dict[str, str], ...]
    detected: dict[str, Any]
    given: dict[str, Value]
    configured: dict[str, Value]
    assumed: dict[str, tuple[Value, str]]
    check: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: also the step in the checkpoint's provenance."""
        assumed = {name: {"value": value, "why": why} for name, (value, why) in self.assumed.items()}
        return {
            "origin": self.origin,
            "title": self.title,
            "files": list(self.files),
            "detected": self.detected,
            "given": self.given,
            "configured": self.configured,
            "assumed": assumed,
            "check": list(self.check),
        }


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A checkpoint in memory, and how it came to be."""

    checkpoint: Checkpoint
    report: ImportReport


@dataclass(frozen=True)
class OpenedCheckpoint:
    """The files of one import, read and recognised, ready to be translated with one set of settings or another."""

    weights: OpenedFile
    configs: tuple[OpenedFile, ...]
    origin: Origin
    candidate: Candidate

    @property
    def source(self) -> Source:
        """The generator's tensors under their own names."""
        return Source(self.weights.path.name, self.candidate.tensors)


@dataclass(frozen=True)
class OwnCheckpoint:
    """A checkpoint of this project: there is nothing to translate, and its provenance is complete."""

    file: OpenedFile
    checkpoint: Checkpoint


def import_checkpoint(
    files: Path | str | Sequence[Path | str],
    *,
    origin: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ImportedCheckpoint:
    """Translate a public implementation's generator: config, weights, and nothing of spectral norm left.

    The arithmetic is float64 and the result is kept in float64, so that it equals the original's function to rounding;
    it is rounded once, on export.

    Args:
        files: the checkpoint, and the origin's own config file where there is one, in any order.
        origin: a name of `detection.ORIGINS`, or of this project; None detects it.
        settings: what the files do not tell; names and values of `settings.SETTINGS`.

    Raises:
        InputError: a file is damaged, of another kind, or its tensors do not make a generator.
        ConfigError: a setting that does not exist, has no effect here, or contradicts the file.
    """
    values = parse_settings(settings or {})
    paths = [Path(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
    return import_opened(open_checkpoint(paths, origin=origin, weights=values.get("weights")), values)


def open_checkpoint(
    paths: Sequence[Path], *, origin: str | None = None, weights: Value | None = None
) -> OpenedCheckpoint | OwnCheckpoint:
    """Read the files and recognise their origin."""
    opened = [open_file(path) for path in paths]
    configs = [file for file in opened if _is_config(file)]
    others = [file for file in opened if not _is_config(file)]
    if len(others) != 1:
        if not others and configs:
            raise InputError(
                f"{configs[0].path} holds options and no weights; give the file with the generator's weights too."
            )
        names = ", ".join(str(file.path) for file in others) or "none"
        raise InputError(f"one file of weights is imported at a time; got {names}.")
    if isinstance(others[0].content, Checkpoint):
        if origin not in (None, OWN) or configs:
            raise InputError(f"{others[0].path} is a checkpoint of this project; give it alone and without --from.")
        return OwnCheckpoint(others[0], others[0].content)
    found, candidate = find_generator(others[0], origin, None if weights is None else str(weights))
    for key, tensor in candidate.tensors.items():
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{others[0].path}: {key} is no plain array of real numbers ({tensor.dtype}).")
    if configs and found.read_config is None:
        raise InputError(f"{configs[0].path} is a config file, and {found.name} has none that is read. Leave it out.")
    if len(configs) > 1:
        raise InputError(f"one config file is enough; got {', '.join(str(file.path) for file in configs)}.")
    return OpenedCheckpoint(others[0], tuple(configs), found, candidate)


def import_opened(opened: OpenedCheckpoint | OwnCheckpoint, values: Mapping[str, Value]) -> ImportedCheckpoint:
    """What was opened, as a checkpoint of ours.

    Raises:
        ConfigError: settings for a checkpoint of this project, which leaves nothing open.
    """
    if isinstance(opened, OpenedCheckpoint):
        return translate(opened, values)
    if values:
        raise ConfigError(f"--set {next(iter(values))} has no effect: a checkpoint of this project says all of itself")
    report = ImportReport(
        OWN, "this project", (_named(opened.file),), _described(opened.checkpoint.config), {}, {}, {}, ()
    )
    return ImportedCheckpoint(opened.checkpoint, report)


def translate(opened: OpenedCheckpoint, values: Mapping[str, Value]) -> ImportedCheckpoint:
    """The checkpoint that the opened files are under these settings."""
    origin, source = opened.origin, opened.source
    said = OriginConfig({}, {})
    for file in opened.configs:
        assert origin.read_config is not None  # open_checkpoint has seen to it
        said = origin.read_config(_options_in(file))
    settings = Settings(values, said.settings, origin.assume(source))
    try:
        translation = origin.translate(source, settings)
    except ConfigError as error:
        if str(error).startswith(("depth", "gain_offset", source.name)):
            raise
        raise InputError(f"{source.name}: the shapes of its tensors contradict each other: {error}.") from error
    for name, value in said.confirms.items():
        if getattr(translation.config, name) != value:
            raise InputError(
                f"{opened.configs[0].path.name} says {name} {value}, but {source.name} has "
                f"{getattr(translation.config, name)}: they belong to different runs."
            )
    _check_told(translation.config, settings, source)
    state = _build(source, translation)
    report = _report(opened, translation, settings)
    step = {"step": "import", "version": version("sagan-deploy"), **report.to_dict()}
    return ImportedCheckpoint(Checkpoint(translation.config, state, provenance=(step,)), report)


def _is_config(file: OpenedFile) -> bool:
    if file.path.suffix == ".json":
        return True
    content = file.content
    return isinstance(content, Mapping) and isinstance(content.get("config"), Mapping) and "itr" in content


def _options_in(file: OpenedFile) -> Mapping[str, Any]:
    content = file.content.get("config", file.content) if isinstance(file.content, Mapping) else None
    if not isinstance(content, Mapping):
        raise InputError(f"{file.path} holds no options.")
    return content


def _build(source: Source, translation: Translation) -> dict[str, Tensor]:
    missing, left = account(source, translation.parts, translation.ignored)
    if missing or left:
        raise InputError(
            f"{source.name} does not fit the network that its names describe. "
            f"Missing: {', '.join(missing) or 'nothing'}. Left over: {', '.join(left) or 'nothing'}."
        )
    expected = _expected(translation.config)
    state: dict[str, Tensor] = {}
    wrong: list[str] = []
    for part in translation.parts:
        for name, tensor in _built(source, part).items():
            shape = expected.get(name)
            if shape != tuple(tensor.shape):
                theirs = ", ".join(f"{key} {tuple(source.tensors[key].shape)}" for key in part.needs)
                wrong.append(f"{theirs} gives {tuple(tensor.shape)} for {name}, the rest asks for {shape}")
            elif not bool(tensor.isfinite().all()):
                raise InputError(f"{source.name} holds NaN or infinite values in {part.needs[0]}: use an older file.")
            state[name] = tensor.contiguous()
    if wrong:
        raise InputError(f"{source.name}: shapes contradict each other: {'; '.join(wrong)}.")
    return state


def _built(source: Source, part: Part) -> dict[str, Tensor]:
    try:
        return part.build(source.tensors)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from error
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        shapes = ", ".join(f"{key} {tuple(source.tensors[key].shape)}" for key in part.needs)
        raise InputError(f"{source.name}: the shapes of {shapes} contradict each other ({reason}).") from error


def _expected(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    from sagan_deploy.model.generator import Generator

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}


def _check_told(config: GeneratorConfig, settings: Settings, source: Source) -> None:
    resolution = settings.told("resolution")
    if resolution is not None and resolution != config.image_size:
        raise ConfigError(
            f"resolution={resolution} contradicts {source.name}: its blocks make images of {config.image_size} pixels"
        )
    settings.used["weights"] = None  # settled when the file was opened
    idle = sorted(set(settings.given) - set(settings.used))
    if idle:
        known = sorted({*settings.assumptions, "resolution", "weights"})
        raise ConfigError(f"--set {idle[0]} has no effect on {source.name}; these have: {', '.join(known)}")


def _report(opened: OpenedCheckpoint, translation: Translation, settings: Settings) -> ImportReport:
    config, candidate = translation.config, opened.candidate
    averaged = candidate.averaged or says_ema(opened.weights.path.name)
    place = ".".join(part for part in (candidate.place, candidate.prefix.rstrip(".")) if part)
    detected: dict[str, Any] = {
        **_described(config),
        **dict(translation.facts),
        "weights": "averaged (EMA)" if averaged else "raw",
    }
    if place:
        detected["found under"] = place
    if candidate.others:
        detected["not imported"] = f"{candidate.others} tensors of other networks"
    return ImportReport(
        opened.origin.name,
        opened.origin.title,
        tuple(_named(file) for file in (opened.weights, *opened.configs)),
        detected,
        settings.given,
        settings.configured,
        settings.assumed(),
        translation.check,
    )


def _described(config: GeneratorConfig) -> dict[str, Any]:
    return {
        "image": f"{config.image_size}x{config.image_size}",
        "z_dim": config.z_dim,
        "classes": config.num_classes or "none: unconditional",
        "widths": list(config.widths),
        "attention": [_attention(config, stage) for stage in config.attention_after],
    }


def _named(file: OpenedFile) -> dict[str, str]:
    return {"name": file.path.name, "sha256": file.sha256}


def _attention(config: GeneratorConfig, stage: int) -> str:
    size = config.bottom_width << sum(config.upsamples[:stage])
    return f"behind stage {stage} at {size}x{size}, {config.widths[stage]} channels"
