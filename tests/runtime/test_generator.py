"""The generator that production calls, around a backend that keeps a diary."""

import numpy as np
import pytest

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.latents import sample_labels, sample_latents
from sagan_deploy.runtime import RuntimeGenerator
from sagan_deploy.runtime.contract import Contract
from tests.tiny_models import CONFIG, NAMES, UNCONDITIONAL, expected_images

F32 = np.dtype(np.float32)


class Diary:
    name = "diary"

    def __init__(self, config, max_batch):
        self.config, self.max_batch, self.batches, self.closed = config, max_batch, [], 0

    def run(self, z, labels):
        self.batches.append(len(z))
        return expected_images(self.config, z, labels).astype(np.float32)

    def close(self):
        self.closed += 1


def generator_of(config=CONFIG, max_batch=4):
    names = NAMES if config.conditional else ()
    backend = Diary(config, max_batch)
    return RuntimeGenerator(Contract(config, names, "fp32", "float", F32, F32), backend, artifact="x"), backend


@pytest.mark.parametrize(
    ("count", "batches"), [(1, [1]), (4, [4]), (5, [2, 3]), (8, [4, 4]), (9, [3, 3, 3]), (13, [3, 3, 3, 4]), (0, [])]
)
def test_batches_are_split_evenly_and_joined_in_order(count, batches):
    generator, backend = generator_of()
    z, labels = sample_latents(1, count, 8), np.arange(count) % 3
    images = generator(z, labels)
    assert backend.batches == batches
    assert images.shape == (count, 3, 8, 8)
    np.testing.assert_allclose(images, expected_images(CONFIG, z, labels), atol=1e-6)


def test_sample_is_the_noise_that_everybody_has():
    generator, _ = generator_of()
    z = sample_latents(7, 5, 8, truncation=0.5, start=2)
    labels = np.array([2, 0, 2, 0, 2])  # rows 2, 3, … of blue, red, blue, red …
    images = generator.sample(5, seed=7, classes=["blue", 0], truncation=0.5, start=2)
    np.testing.assert_allclose(images, expected_images(CONFIG, z, labels), atol=1e-6)


def test_sample_draws_labels_when_none_are_given():
    generator, _ = generator_of()
    images = generator.sample(6, seed=3)
    expected = expected_images(CONFIG, sample_latents(3, 6, 8), sample_labels(3, 6, 3))
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_rows_do_not_depend_on_count_or_start():
    generator, _ = generator_of()
    whole = generator.sample(9, seed=1)
    np.testing.assert_array_equal(generator.sample(2, seed=1, start=5), whole[5:7])


def test_unconditional():
    generator, _ = generator_of(UNCONDITIONAL)
    assert generator.sample(3).shape == (3, 3, 8, 8)
    with pytest.raises(InputError, match="unconditional"):
        generator.sample(3, classes=[0])


@pytest.mark.parametrize("wrong", [{"count": -1}, {"count": 1, "seed": -1}, {"count": 1, "truncation": 0.0}])
def test_numbers_out_of_range(wrong):
    generator, backend = generator_of()
    with pytest.raises(ConfigError):
        generator.sample(**wrong)
    assert backend.batches == []


def test_closing_happens_once_and_is_final():
    generator, backend = generator_of()
    with generator as same:
        assert same is generator
    generator.close()
    assert backend.closed == 1
    with pytest.raises(InputError, match="closed"):
        generator.sample(1)
    assert "closed" in repr(generator)


def test_bad_input_never_reaches_the_backend():
    generator, backend = generator_of()
    with pytest.raises(InputError):
        generator(np.zeros((2, 8), np.float32), [0, 3])
    assert backend.batches == []


def test_the_time_of_the_gpu_is_told_only_where_there_is_one():
    generator, backend = generator_of()
    assert generator.gpu_milliseconds(np.zeros((2, 8), np.float32), [0, 1]) is None
    assert backend.batches == []
    generator.close()
    with pytest.raises(InputError, match="closed"):
        generator.gpu_milliseconds(np.zeros((2, 8), np.float32), [0, 1])


def test_what_it_says_of_itself():
    generator, _ = generator_of()
    assert (generator.backend_name, generator.max_batch, generator.class_names) == ("diary", 4, NAMES)
    assert generator.config is CONFIG
    assert generator.choice == "x (fp32) with diary"
