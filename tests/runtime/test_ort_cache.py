"""A model that was kept as it was optimised draws the same images, and nothing else is ever taken for it."""

import logging
import threading

import numpy as np
import onnx
import onnxruntime
import pytest

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.export import export_generator
from sagan_deploy.runtime import load, ort, ort_cache
from tests.generators import tiny_checkpoint
from tests.tiny_models import make_bundle

KEPT, MADE = "ORT_DISABLE_ALL", "ORT_ENABLE_ALL"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, and the images of each, opened without a cache."""
    folder = tmp_path_factory.mktemp("models")
    found = []
    for seed in (0, 1):
        path = folder / f"{seed}.onnx"
        path.write_bytes(export_generator(tiny_checkpoint(seed=seed)).payload)
        with load(path, device="cpu", threads=1) as generator:
            found.append((path, generator.sample(5, seed=3)))
    return found


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "kept" / "model.cache"


@pytest.fixture
def model(models, cache):
    """A model of which the cache is filled."""
    path, _ = models[0]
    load(path, device="cpu", threads=1, runtime_cache=cache).close()
    return path


def opened(path, cache):
    """How a model was opened, and its images."""
    with load(path, device="cpu", threads=1, runtime_cache=cache) as generator:
        level = generator._backend.session.get_session_options().graph_optimization_level
        return level.name, generator.sample(5, seed=3)


def check(model, cache, expected_level):
    path, images = model
    level, found = opened(path, cache)
    assert level == expected_level
    np.testing.assert_array_equal(found, images)
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


def test_the_second_start_takes_what_the_first_one_made(models, cache):
    check(models[0], cache, MADE)
    kept = cache.read_bytes()
    check(models[0], cache, KEPT)
    assert cache.read_bytes() == kept


def test_it_is_the_optimised_model_under_a_seal(model, cache):
    def operators(proto):
        return {node.op_type for node in proto.graph.node}

    kept, source = onnx.load(cache), onnx.load(model)
    assert operators(kept) != operators(source)
    seal = kept.metadata_props[-1]
    assert (seal.key, len(seal.value)) == ("sagan_deploy.runtime_cache", 64)
    assert {entry.key for entry in source.metadata_props} < {entry.key for entry in kept.metadata_props}


def test_another_model_replaces_it(models, model, cache, caplog):
    caplog.set_level(logging.INFO)
    check(models[1], cache, MADE)
    assert "another model" in caplog.text
    check(models[1], cache, KEPT)
    check(models[0], cache, MADE)


@pytest.mark.parametrize("fact", ["version", "build", "processor", "system", "machine", "format"])
def test_what_was_made_elsewhere_is_made_again(fact, models, model, cache, monkeypatch):
    match fact:
        case "version":
            monkeypatch.setattr(onnxruntime, "__version__", "1.0")
        case "build":
            monkeypatch.setattr(onnxruntime, "get_build_info", lambda: "another one")
        case "processor":
            monkeypatch.setattr(ort_cache, "_processor", lambda: "another one")
        case "format":
            monkeypatch.setattr(ort_cache, "_FORMAT", 0)
        case _:
            monkeypatch.setattr(ort_cache.platform, fact, lambda: "another one")
    check(models[0], cache, MADE)
    check(models[0], cache, KEPT)


@pytest.mark.parametrize("place", ["first", "middle", "last of the model", "seal"])
def test_a_damaged_one_is_made_again(place, models, model, cache):
    content = bytearray(cache.read_bytes())
    at = {"first": 0, "middle": len(content) // 2, "last of the model": -ort_cache._SEAL_BYTES - 1, "seal": -1}[place]
    content[at] ^= 1
    cache.write_bytes(content)
    check(models[0], cache, MADE)
    check(models[0], cache, KEPT)


def test_a_file_of_another_kind_is_left_alone(models, cache):
    path, _ = models[0]
    cache.parent.mkdir()
    for content in (path.read_bytes(), b"thesis", b""):
        cache.write_bytes(content)
        with pytest.raises(ConfigError, match="something else.*Name another file"):
            opened(path, cache)
        assert cache.read_bytes() == content


def test_so_is_half_a_cache(model, cache):
    half = cache.read_bytes()[:-10]
    cache.write_bytes(half)
    with pytest.raises(ConfigError, match="damaged cache.*delete it"):
        opened(model, cache)
    assert cache.read_bytes() == half


def test_a_folder_is_no_cache(models, tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        load(models[0][0], runtime_cache=tmp_path)


def test_a_disk_that_refuses_costs_a_warning(models, tmp_path, caplog):
    path, images = models[0]
    (tmp_path / "file").write_text("")
    level, found = opened(path, tmp_path / "file" / "below")
    assert level == MADE
    np.testing.assert_array_equal(found, images)
    assert "not kept: cannot write" in caplog.text


def test_so_does_one_on_which_onnx_runtime_cannot_write(models, cache, monkeypatch, caplog):
    path, images = models[0]
    original = ort_cache._session

    def full(runtime, options, model):
        if options.optimized_model_filepath:
            options.optimized_model_filepath = str(cache.parent / "no" / "folder")
        return original(runtime, options, model)

    monkeypatch.setattr(ort_cache, "_session", full)
    np.testing.assert_array_equal(opened(path, cache)[1], images)
    assert "not kept" in caplog.text
    assert list(cache.parent.iterdir()) == []


def test_a_model_that_cannot_be_opened_leaves_nothing(cache, tmp_path, caplog):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x07 no model")
    with pytest.raises(InputError, match="no ONNX model"):
        ort.open_onnx(path, "m.onnx", cpu=ort.CpuOptions(runtime_cache=cache))
    assert list(cache.parent.iterdir()) == []
    assert caplog.text == ""


def test_a_sealed_one_that_cannot_be_opened_is_made_again(models, model, cache, monkeypatch, caplog):
    original = ort_cache._session

    def refuse(runtime, options, model):
        if options.graph_optimization_level.name == KEPT:
            raise RuntimeError("Could not find an implementation")
        return original(runtime, options, model)

    with monkeypatch.context() as patch:
        patch.setattr(ort_cache, "_session", refuse)
        check(models[0], cache, MADE)
    assert "Could not find an implementation" in caplog.text
    check(models[0], cache, KEPT)


def test_threads_that_start_at_once_share_one_file(models, cache):
    found = {}

    def start(number):
        found[number] = opened(models[number % 2][0], cache)[1]

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for number, images in found.items():
        np.testing.assert_array_equal(images, models[number % 2][1])
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


def test_the_file_of_a_bundle_is_hashed_once_and_still_checked(tmp_path, cache, monkeypatch):
    folder = make_bundle(tmp_path / "b")
    monkeypatch.setattr(ort, "sha256", lambda path: pytest.fail("hashed again"))
    level, images = opened(folder, cache)
    assert (level, opened(folder, cache)[0]) == (MADE, KEPT)
    np.testing.assert_array_equal(images, opened(folder, cache)[1])
    onnx_file = folder / "onnx/fp32.onnx"
    onnx_file.write_bytes(onnx_file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError):
        opened(folder, cache)


def test_the_processor_is_told_by_kind_and_abilities(monkeypatch):
    first = "processor\t: 0\nmodel name\t: A\ncpu MHz\t\t: {}\nflags\t\t: fpu avx2{}\n"
    second = "processor\t: 1\nmodel name\t: B\n"
    found = []
    for clock, more in ((1000, ""), (2000, ""), (1000, " avx512f")):
        text = first.format(clock, more) + "\n" + second
        monkeypatch.setattr(ort_cache.Path, "read_text", lambda path, text=text, **_: text)
        found.append(ort_cache._processor())
    assert found[0] == found[1] != found[2]
    assert "A" in found[0]
    assert "B" not in found[0]
