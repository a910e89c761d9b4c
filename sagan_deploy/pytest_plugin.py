"""Bundles in your own pytest suite: ``pytest --sagan-bundle DIR`` and a test of one line.

    from sagan_deploy.pytest_plugin import assert_verified

    def test_bundle(sagan_bundle):
        assert_verified(sagan_bundle)

The option may be repeated; the test then runs once per bundle. pytest imports this module in every project of the
environment, so it imports nothing but pytest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sagan_deploy.verify import VerifyResult

_OPTION = "--sagan-bundle"
_FIXTURE = "sagan_bundle"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--sagan-bundle DIR``."""
    parser.getgroup("sagan-deploy").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="DIR",
        help="A bundle for the fixture sagan_bundle; repeat it to run the tests once per bundle.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for the fixture once per bundle."""
    bundles = metafunc.config.getoption(_OPTION)
    if _FIXTURE in metafunc.fixturenames and bundles:
        metafunc.parametrize(_FIXTURE, [Path(bundle) for bundle in bundles], indirect=True, ids=bundles)


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
