"""Bundles under pytest: ``pytest --sagan-bundle DIR`` tests them, without a test having to be written.

For every bundle there is an item ``DIR::integrity`` (every hash), one for each way to run each file
(``DIR::onnx/generator.fp16.onnx[onnxruntime-cpu]``), which draws the golden images and is skipped with the reason where
it cannot run, and ``DIR::something ran``, since a bundle of which all was skipped is not verified. ``-k``,
``--junitxml`` and pytest-xdist see them as they see any test. PyTorch is not needed.

For tests of your own, which run once per bundle, there is a fixture:

    from sagan_deploy.pytest_plugin import assert_verified

    def test_bundle(sagan_bundle):
        assert_verified(sagan_bundle, device="cpu")

pytest imports this module in every project of the environment, so it imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sagan_deploy.runtime.loading import Candidate
    from sagan_deploy.verify import Replay, VerifyResult

_OPTION = "--sagan-bundle"
_FIXTURE = "sagan_bundle"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--sagan-bundle DIR``."""
    parser.getgroup("sagan-deploy").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="DIR",
        help="Test this bundle: its hashes, and the golden images with every engine that runs here. Repeatable.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for the fixture once per bundle."""
    bundles = metafunc.config.getoption(_OPTION)
    if _FIXTURE in metafunc.fixturenames and bundles:
        metafunc.parametrize(_FIXTURE, [Path(bundle) for bundle in bundles], indirect=True, ids=bundles)


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items of every bundle named by ``--sagan-bundle``."""
    for name in dict.fromkeys(config.getoption(_OPTION)):
        collector = BundleCollector.from_parent(session, name=name, nodeid=name, path=Path(name))
        # As pytest itself collects: so that it counts the items, and shows an error as one of collection.
        report = collector.ihook.pytest_make_collect_report(collector=collector)
        collector.ihook.pytest_collectreport(report=report)
        items.extend(report.result)


class BundleFailure(Exception):
    """What is wrong with a bundle, in words; shown without a traceback."""


class BundleCollector(pytest.Collector):
    """One bundle."""

    def collect(self) -> Iterable[pytest.Item]:
        """Its items; of a bundle without a sound manifest only the one that says so."""
        from sagan_deploy.errors import InputError
        from sagan_deploy.runtime.loading import candidates

        self.outcomes: dict[str, Replay] = {}
        yield IntegrityItem.from_parent(self, name="integrity")
        try:
            ways = candidates(self.path)
        except InputError:
            return
        for way in ways:
            yield ReplayItem.from_parent(self, name=_way_name(way), way=way)
        yield SomethingRanItem.from_parent(self, name="something ran", ways=ways)

    def replay(self, way: Candidate) -> Replay:
        """What a way to run the bundle makes of the golden images, drawn once."""
        from sagan_deploy.bundle.bundle import open_bundle
        from sagan_deploy.verify import replay_golden

        name = _way_name(way)
        if name not in self.outcomes:
            bundle = open_bundle(self.path)
            self.outcomes[name] = replay_golden(way, bundle.golden(), bundle.manifest.generator)
        return self.outcomes[name]


class _BundleItem(pytest.Item):
    parent: BundleCollector

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the bundle lies and what is tested."""
        return self.path, None, f"{self.parent.name}: {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """What is wrong and what to run to look at it; a traceback only for bugs."""
        from sagan_deploy.errors import SaganDeployError

        if excinfo.errisinstance((BundleFailure, SaganDeployError)):
            return f"{excinfo.value}\nTo see it alone: sagan-deploy verify {self.parent.name}"
        return super().repr_failure(excinfo, *args)


class IntegrityItem(_BundleItem):
    """Every file that the manifest lists is there and has its hash."""

    def runtest(self) -> None:
        """Check them."""
        from sagan_deploy.bundle.bundle import open_bundle

        open_bundle(self.path).verify_hashes()


class ReplayItem(_BundleItem):
    """One way to run one file draws the golden images."""

    def __init__(self, *, way: Candidate, **rest: Any) -> None:
        super().__init__(**rest)
        self.way = way

    def runtest(self) -> None:
        """Draw and compare them; the numbers become properties in JUnit files."""
        replay = self.parent.replay(self.way)
        if replay.status == "not_run":
            pytest.skip(replay.reason)
        limits = replay.limits
        assert limits is not None
        numbers = {"rel_l2": (replay.rel_l2, limits.rel_l2), "max_abs": (replay.max_abs, limits.max_abs)}
        lines = []
        for name, (value, limit) in numbers.items():
            if value is not None:
                self.user_properties += [(name, f"{value:.6g}"), (f"{name}_limit", f"{limit:.6g}")]
                lines.append(f"{name} is {value:.3g}, the limit is {limit:.3g}")
        if replay.status == "failed":
            where = f"worst image: {replay.worst_image}"
            raise BundleFailure("\n".join([f"{_way_name(self.way)}: {replay.reason}", *lines, where]))


class SomethingRanItem(_BundleItem):
    """At least one way to run the bundle was no skip."""

    def __init__(self, *, ways: list[Candidate], **rest: Any) -> None:
        super().__init__(**rest)
        self.ways = ways

    def runtest(self) -> None:
        """Look at what the other items found; in a process without them, replay until one way runs."""
        found = []
        known = [way for way in self.ways if _way_name(way) in self.parent.outcomes]
        for way in [*known, *(way for way in self.ways if way not in known)]:
            replay = self.parent.replay(way)
            if replay.status != "not_run":
                return
            found.append(f"{_way_name(way)}: {replay.reason}")
        raise BundleFailure("\n".join(["nothing of it could run here, so it is not verified:", *found]))


def _way_name(way: Candidate) -> str:
    return f"{way.file}[{way.backend}]"


@pytest.fixture
def sagan_bundle(request: pytest.FixtureRequest) -> Path:
    """The path of a bundle named by ``--sagan-bundle``; the test is skipped when there is none."""
    bundle = getattr(request, "param", None)
    if bundle is None:
        pytest.skip(f"no bundle was named; run pytest with {_OPTION} DIR")
    return Path(bundle)


def assert_verified(path: Path | str, *, device: str | None = None) -> VerifyResult:
    """Check a bundle's hashes and let all that runs on this machine draw its golden images.

    Args:
        path: the bundle.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None tries all.

    Returns:
        What was found, with the replays that could not run here.

    Raises:
        AssertionError: a file is damaged or missing, an artifact draws other images, or none could run here.
    """
    __tracebackhide__ = True
    from sagan_deploy.errors import InputError
    from sagan_deploy.verify import verify_bundle

    try:
        result = verify_bundle(path, device=device)
    except InputError as error:
        raise AssertionError(f"{path} is no sound bundle: {error}") from error
    if result.failed:
        lines = [f"{replay.file} with {replay.backend}: {replay.reason}" for replay in result.failed]
        raise AssertionError("\n  ".join([f"{path} draws other images than it should here:", *lines]))
    if not result.passed:
        lines = [f"{replay.file} with {replay.backend}: {replay.reason}" for replay in result.replays]
        raise AssertionError("\n  ".join([f"{path} was not verified, as nothing could run here:", *lines]))
    return result
