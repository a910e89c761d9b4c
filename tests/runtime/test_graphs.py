"""CUDA graphs: recorded after a warm-up, launched for the same batch only, and left out where they cannot be."""

import logging

import numpy as np
import pytest

from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.runtime import graphs
from sagan_deploy.runtime.contexts import TensorRTOptions
from tests.runtime.doubles import CudaGraphStrategy
from tests.runtime.test_tensorrt import LABELS, TWO_PROFILES, Z, opened
from tests.tiny_models import CONFIG, expected_images

GRAPHS = TensorRTOptions(cuda_graphs=True)


@pytest.fixture(autouse=True)
def _fresh_log():
    graphs._say_once.cache_clear()


def draw(generator, count):
    images = generator(Z[:count], LABELS[:count])
    np.testing.assert_allclose(images, expected_images(CONFIG, Z[:count], LABELS[:count]), atol=1e-6)
    return images


def done(world, cuda):
    """What ran, in its order."""
    return [name for name in cuda.calls if name in ("capture", "launch")], len(world.named("execute_async_v3"))


def test_the_second_equal_batch_is_recorded_and_the_third_only_launched():
    open_, world, cuda = opened(flavour="tensorrt", options=GRAPHS)
    with open_() as generator:
        first = draw(generator, 3)
        assert done(world, cuda) == ([], 1)
        np.testing.assert_array_equal(draw(generator, 3), first)
        assert done(world, cuda) == (["capture", "launch"], 2)  # the second enqueue was recorded, not run
        world.calls.clear()
        np.testing.assert_array_equal(draw(generator, 3), first)
        other = generator(Z[3:6], LABELS[3:6])  # the same recipe, other numbers in the same buffers
        np.testing.assert_allclose(other, expected_images(CONFIG, Z[3:6], LABELS[3:6]), atol=1e-6)
        assert world.calls == []
        assert done(world, cuda)[0] == ["capture", "launch", "launch", "launch"]
    assert cuda.live == 0


def test_another_batch_or_profile_throws_the_graph_away_before_the_context_changes():
    open_, world, cuda = opened(flavour="tensorrt", options=GRAPHS, plan_changes={"profiles": TWO_PROFILES})
    with open_() as generator:
        for count in (1, 1, 1, 8, 8, 8, 1, 1, 8, 1, 8):
            draw(generator, count)
        assert done(world, cuda)[0] == ["capture", "launch", "launch"] * 2 + ["capture", "launch"]
        assert world.named("set_optimization_profile_async") == [(1,), (0,), (1,), (0,), (1,)]
    assert cuda.live == 0


@pytest.mark.parametrize("call", ["capture", "instantiate"])
def test_a_plan_that_cannot_be_recorded_runs_without_and_says_so_once(call, caplog):
    open_, world, cuda = opened(flavour="tensorrt", options=GRAPHS)
    cuda.fail.add(call)
    with caplog.at_level(logging.WARNING), open_() as generator:
        for _ in range(4):
            draw(generator, 2)
        assert done(world, cuda)[0] == ["capture"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CUDA graphs are off" in caplog.text
    assert call in caplog.text
    assert cuda.live == 0


def test_an_enqueue_that_tensorrt_refuses_while_recording_falls_back_too():
    open_, world, cuda = opened(flavour="tensorrt", options=GRAPHS)
    with open_() as generator:
        draw(generator, 2)
        capture = cuda.Stream.capture

        def refusing(stream, work):
            world.refuse.add("execute_async_v3")
            try:
                return capture(stream, work)
            finally:
                world.refuse.clear()

        cuda.Stream.capture = refusing
        draw(generator, 2)
        draw(generator, 2)
        assert "launch" not in cuda.calls
    assert cuda.live == 0


def test_a_launch_that_fails_is_an_error_and_frees_the_session():
    open_, _, cuda = opened(flavour="tensorrt", options=GRAPHS)
    with open_() as generator:
        draw(generator, 2)
        draw(generator, 2)
        cuda.fail.add("launch")
        with pytest.raises(MissingError, match="launch failed"):
            draw(generator, 2)
        cuda.fail.clear()
        assert cuda.live == 0
        draw(generator, 2)
    assert cuda.live == 0


def test_an_enqueue_that_is_refused_is_not_remembered_as_done():
    open_, world, cuda = opened(flavour="tensorrt", options=GRAPHS)
    with open_() as generator:
        world.refuse.add("execute_async_v3")
        with pytest.raises(InputError, match="execute_async_v3"):
            draw(generator, 2)
        world.refuse.clear()
        draw(generator, 2)
        assert "capture" not in cuda.calls


def test_without_the_option_nothing_is_recorded():
    open_, world, cuda = opened(flavour="tensorrt")
    with open_() as generator:
        for _ in range(3):
            draw(generator, 2)
        assert done(world, cuda) == ([], 3)


@pytest.mark.parametrize(
    ("options", "strategies"), [(GRAPHS, [(CudaGraphStrategy.WHOLE_GRAPH_CAPTURE,)]), (TensorRTOptions(), [])]
)
def test_rtx_records_by_itself_and_never_both(options, strategies):
    open_, world, cuda = opened(flavour="rtx", options=options)
    with open_() as generator:
        names = [call[0] for call in world.calls]
        for _ in range(3):
            draw(generator, 2)
        assert world.named("cuda_graph_strategy") == strategies
        assert done(world, cuda) == ([], 3)
    if strategies:  # set before the context is made, which it is for
        assert names.index("cuda_graph_strategy") < names.index("create_execution_context")
