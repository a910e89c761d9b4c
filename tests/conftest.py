"""Settings for all tests."""

import os

import pytest

# Every worker would start as many threads as there are cores, and they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables must not fold differently in a narrow terminal.
os.environ["COLUMNS"] = "160"


@pytest.fixture(scope="session", autouse=True)
def exports_folder(tmp_path_factory, request):
    """A folder for `tests.exports`: this run's own, whatever number of workers share it."""
    from tests import exports  # imports torch, which reads the settings above

    base = tmp_path_factory.getbasetemp()
    exports.folder = (base.parent if hasattr(request.config, "workerinput") else base) / "exports"
    exports.folder.mkdir(exist_ok=True)
