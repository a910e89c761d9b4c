"""ONNX Runtime draws what the equation says, and refuses what is not ours."""

import threading
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.export import export_generator
from sagan_deploy.latents import sample_latents
from sagan_deploy.runtime import load, ort
from sagan_deploy.runtime.ort import CpuOptions, OnnxRuntimeBackend, open_onnx
from tests.generators import tiny_checkpoint
from tests.tiny_models import CONFIG, NAMES, UNCONDITIONAL, expected_codes, expected_images, tiny_metadata, tiny_onnx

Z = sample_latents(5, 7, 8)
LABELS = np.arange(7) % 3


def test_images_are_those_of_the_equation():
    backend, contract = open_onnx(tiny_onnx(), "m.onnx", cpu=CpuOptions(threads=1))
    images = backend.run(Z, LABELS)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected_images(CONFIG, Z, LABELS), atol=1e-6)
    assert (contract.config, contract.class_names, contract.precision) == (CONFIG, NAMES, "fp32")


def test_unconditional():
    backend, contract = open_onnx(tiny_onnx(UNCONDITIONAL), "m.onnx")
    np.testing.assert_allclose(backend.run(Z, None), expected_images(UNCONDITIONAL, Z), atol=1e-6)
    assert contract.input_names == ("z",)


def test_uint8_images():
    backend, contract = open_onnx(tiny_onnx(output="uint8"), "m.onnx")
    images = backend.run(Z, LABELS)
    assert contract.image_shape == (8, 8, 3)
    assert np.abs(images.astype(int) - expected_codes(CONFIG, Z, LABELS)).max() <= 1
    assert (images == expected_codes(CONFIG, Z, LABELS)).mean() > 0.999


def test_float16_latents(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx(precision="fp16", z_dtype="float16"))
    with load(path) as generator:
        assert generator.contract.z_dtype == np.float16
        np.testing.assert_allclose(generator(Z, LABELS), expected_images(CONFIG, Z, LABELS), atol=5e-3)


@pytest.mark.parametrize(("stages", "size", "batch"), [(2, 8, 64), (4, 32, 64), (5, 64, 16), (6, 128, 4), (8, 512, 1)])
def test_the_cpu_draws_large_images_a_few_at_a_time(stages, size, batch):
    config = replace(CONFIG, widths=(8,) * stages)
    assert config.image_size == size
    backend, contract = open_onnx(tiny_onnx(config), "m.onnx")
    assert backend.max_batch == batch
    # The GPU has its own memory and wants large batches.
    assert OnnxRuntimeBackend(backend.session, contract, device=0).max_batch == 64


def test_parts_are_the_images_of_one_batch(tmp_path):
    config = replace(CONFIG, widths=(8,) * 6)
    path = tmp_path / "large.onnx"
    path.write_bytes(tiny_onnx(config))
    z, labels = sample_latents(5, 9, 8), np.arange(9) % 3
    with load(path) as generator:
        assert generator.max_batch == 4
        np.testing.assert_allclose(generator(z, labels), expected_images(config, z, labels), atol=1e-6)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (tiny_onnx()[:3000], "no ONNX model"),
        (tiny_onnx(metadata={"author": "x"}), "another origin"),
        (tiny_onnx(UNCONDITIONAL, metadata=tiny_metadata(CONFIG, NAMES, "fp32", "float")), r"\('z', 'labels'\)"),
        (tiny_onnx(metadata=tiny_metadata(CONFIG, NAMES, "fp32", "uint8")), "images"),
        (tiny_onnx(batch=4), "free"),
    ],
    ids=["truncated", "foreign", "inputs", "output", "static batch"],
)
def test_wrong_models(payload, words):
    with pytest.raises(InputError, match=words):
        open_onnx(payload, "m.onnx")


def test_another_z_dim_in_the_config():
    other = replace(CONFIG, z_dim=16)
    with pytest.raises(InputError, match=r"z as float32 \('n', 8\).*\('n', 16\)"):
        open_onnx(tiny_onnx(metadata=tiny_metadata(other, NAMES, "fp32", "float")), "m.onnx")


def test_cuda_is_refused_and_never_replaced_by_the_cpu():
    with pytest.raises(MissingError, match="onnxruntime-gpu"):
        open_onnx(tiny_onnx(), "m.onnx", device=0)


class FakeSession:
    def __init__(self, payload, options, providers):
        self.providers, self.options = providers, options

    def get_providers(self):
        return ["CPUExecutionProvider"]  # what a GPU build answers on a machine without a GPU


def test_a_session_that_silently_took_the_cpu_is_refused(monkeypatch):
    import onnxruntime

    seen = []

    def session(*args, **options):
        seen.append(FakeSession(*args, **options))
        return seen[-1]

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(MissingError, match="did not take CUDA"):
        open_onnx(tiny_onnx(), "m.onnx", device=1)
    assert seen[0].providers == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
    assert seen[0].options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


@pytest.mark.parametrize("spin", [True, False])
def test_the_options_of_the_cpu_are_passed_on(spin, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx())
    with load(path, threads=2, spin=spin) as generator:
        options = generator._backend.session.get_session_options()
        np.testing.assert_allclose(generator(Z, LABELS), expected_images(CONFIG, Z, LABELS), atol=1e-6)
    assert options.intra_op_num_threads == 2
    if spin:
        with pytest.raises(RuntimeError, match="allow_spinning"):
            options.get_session_config_entry("session.intra_op.allow_spinning")
    else:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.enable_mem_pattern, options.enable_cpu_mem_arena) == (False, True)


def test_threads_that_do_not_spin_take_no_time_when_there_is_nothing_to_do(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(export_generator(tiny_checkpoint()).payload)
    idle = {}
    for spin in (True, False):
        with load(path, threads=2, spin=spin) as generator:
            z, labels = generator.sample_inputs(4)
            before = time.process_time()
            for _ in range(5):
                generator(z, labels)
                time.sleep(0.1)
            idle[spin] = time.process_time() - before
    assert idle[False] < idle[True] / 2


def test_many_threads_get_their_own_images(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx())
    wrong = []
    with load(path, threads=1) as generator:

        def work(seed):
            for _ in range(20):
                z, labels = generator.sample_inputs(3, seed=seed)
                if np.abs(generator(z, labels) - expected_images(CONFIG, z, labels)).max() > 1e-5:
                    wrong.append(seed)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_the_checks_cost_next_to_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx())
    with load(path, threads=1) as generator:
        session, feed = generator._backend.session, {"z": Z[:1], "labels": LABELS[:1].astype(np.int64)}

        def best(call):
            times = []
            for _ in range(30):
                begin = time.perf_counter()
                for _ in range(50):
                    call()
                times.append((time.perf_counter() - begin) / 50)
            return min(times)

        bare = best(lambda: session.run(["images"], feed))
        ours = best(lambda: generator(feed["z"], feed["labels"]))
    assert ours - bare < 50e-6, f"{(ours - bare) * 1e6:.0f} µs"


def test_a_failing_run_is_one_line():
    backend, _ = open_onnx(tiny_onnx(), "m.onnx")
    with pytest.raises(MissingError, match="ONNX Runtime failed on a batch of 2") as caught:
        backend.run(np.zeros((2, 9), np.float32), np.zeros(2, np.int64))
    assert "\n" not in str(caught.value)


class Module:
    def __init__(self, **names):
        vars(self).update(names)


def test_libraries_of_cuda_are_loaded_before_the_provider_and_nothing_is_printed(monkeypatch, capsys):
    calls = []

    def preload_dlls():
        calls.append("preload")
        print("Failed to load libcudnn.so.9")  # as it does

    there = Module(get_available_providers=lambda: ["CUDAExecutionProvider"], preload_dlls=preload_dlls)
    monkeypatch.setattr(ort, "require", lambda module, extra: there)
    ort.load_onnxruntime(None)
    assert calls == []
    assert ort.load_onnxruntime(0) is there
    assert ort.load_onnxruntime(1) is there
    assert calls == ["preload"]
    assert capsys.readouterr() == ("", "")
    old = Module(get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "require", lambda module, extra: old)
    assert ort.load_onnxruntime(0) is old


def test_a_kernel_that_cuda_lacks_is_named_with_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : transformer_memcpy.cc:253 !node_provider_type.empty() was false. "
            "Provider type for Resize node with name 'up' is not set."
        )

    monkeypatch.setattr(ort, "load_onnxruntime", lambda device: onnxruntime)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(MissingError, match=r"no CUDA kernel of Resize for the types in m\.onnx.*export fp16 or fp32"):
        open_onnx(tiny_onnx(), "m.onnx", device=0)
