"""The runtime cache of TensorRT for RTX: read before the context, refused aloud, written once at the end."""

import logging

import numpy as np
import pytest

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.runtime.contexts import TensorRTOptions
from tests.runtime.test_tensorrt import LABELS, Z, opened
from tests.tiny_models import CONFIG, expected_images


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernels" / "rtx.cache"


def draw(generator):
    np.testing.assert_allclose(generator(Z[:2], LABELS[:2]), expected_images(CONFIG, Z[:2], LABELS[:2]), atol=1e-6)


def test_the_first_process_writes_what_the_second_one_reads(path):
    open_, world, _ = opened(options=TensorRTOptions(runtime_cache=path))
    with open_() as generator:
        draw(generator)
        assert not path.exists()
    assert path.read_bytes() == b"cache:compiled"
    assert world.named("deserialize") == []  # there was none
    assert [file.name for file in path.parent.iterdir()] == ["rtx.cache"]

    open_, world, _ = opened(options=TensorRTOptions(runtime_cache=path))
    with open_() as generator:
        names = [call[0] for call in world.calls if call[0] not in ("get_engine_validity", "deserialize_cuda_engine")]
        assert names == [
            *("create_runtime_config", "create_runtime_cache", "deserialize"),
            *("set_runtime_cache", "create_execution_context"),
        ]
        draw(generator)
    assert world.named("deserialize") == [(b"cache:compiled",)]


def test_a_cache_that_did_not_grow_is_not_written_again(path):
    path.parent.mkdir()
    path.write_bytes(b"cache:compiled")
    before = path.stat()
    open_, _, _ = opened(options=TensorRTOptions(runtime_cache=path))
    open_().close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_refused_cache_is_named_ignored_and_replaced(path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"of another card")
    open_, _, _ = opened(options=TensorRTOptions(runtime_cache=path))
    with caplog.at_level(logging.WARNING), open_() as generator:
        draw(generator)
    assert str(path) in caplog.text
    assert "damaged" in caplog.text
    assert path.read_bytes() == b"cache:compiled"


def test_all_contexts_of_an_engine_share_one_cache(path):
    open_, world, _ = opened(options=TensorRTOptions(runtime_cache=path))
    with open_() as generator:
        backend = generator._backend
        with backend._session(), backend._session():
            pass
        assert world.contexts == 2
        assert len(world.named("create_runtime_config")) == 2
        assert len(world.named("create_runtime_cache")) == 1
        assert len(world.named("set_runtime_cache")) == 2


@pytest.mark.parametrize("call", ["create_runtime_cache", "set_runtime_cache"])
def test_refusals_while_opening(path, call):
    open_, _, cuda = opened(options=TensorRTOptions(runtime_cache=path), refuse=[call])
    with pytest.raises(InputError, match=call.removeprefix("create_").replace("_", ".")):
        open_()
    assert cuda.live == 0
    assert not path.exists()


def test_a_cache_that_cannot_be_kept_costs_a_warning_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    open_, world, cuda = opened(options=TensorRTOptions(runtime_cache=tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING), open_() as generator:
        draw(generator)
    assert "was not kept" in caplog.text
    assert cuda.live == 0

    caplog.clear()
    open_, world, cuda = opened(options=TensorRTOptions(runtime_cache=tmp_path / "c"))
    with caplog.at_level(logging.WARNING), open_() as generator:
        world.refuse.add("serialize")
        draw(generator)
    assert "gave no runtime cache" in caplog.text
    assert cuda.live == 0


def test_the_classic_tensorrt_keeps_nothing_and_runs(path):
    open_, world, _ = opened(flavour="tensorrt", options=TensorRTOptions(runtime_cache=path))
    with open_() as generator:
        draw(generator)
    assert world.named("create_runtime_cache") == []
    assert not path.exists()


def test_a_folder_is_no_cache(tmp_path):
    with pytest.raises(ConfigError, match="must name a file"):
        TensorRTOptions(runtime_cache=tmp_path)
