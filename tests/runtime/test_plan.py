"""Does a plan fit this machine? Each reason has its own words, and they come in a fixed order."""

import dataclasses

import pytest

from sagan_deploy.bundle.bundle import CorruptError
from sagan_deploy.errors import InputError, MissingError
from sagan_deploy.runtime.plan import Machine, preflight, read_header
from tests.tiny_models import UNCONDITIONAL, manifest_of, onnx_artifact, plan_artifact, plan_bytes, profile

PAYLOAD = plan_bytes()
CLASSIC = plan_bytes(b"ftrt", (10, 13, 3, 9))
CLASSIC_FACTS = {"flavour": "tensorrt", "tensorrt_version": "10.13.3.9"}


def check(payload=PAYLOAD, *, machine=None, described=None, config=None, **facts):
    options = {} if config is None else {"config": config}
    artifact = plan_artifact(described or payload, **options, **facts)
    machine = machine or machine_of()
    manifest = manifest_of([onnx_artifact(b"x", "onnx/a.onnx", **options), artifact], **options)
    preflight(payload, "m.plan", manifest, artifact, machine)


def machine_of(version="1.7.1.116", capability=(8, 9), os="linux", arch="x86_64", asked=None):
    def ask(name, answer):
        if asked is not None:
            asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Machine(lambda _: ask("version", version), lambda: ask("capability", capability), os, arch)


def test_header():
    header = read_header(PAYLOAD, "m.plan")
    assert (header.flavour, header.version_text) == ("rtx", "1.7.1.116")
    assert read_header(CLASSIC, "m.plan").flavour == "tensorrt"


@pytest.mark.parametrize("payload", [b"", b"vtrt", b"PK\x03\x04" + bytes(60), b"TRTv" + bytes(60)])
def test_what_is_no_plan(payload):
    with pytest.raises(InputError, match="no TensorRT plan"):
        read_header(payload, "m.plan")


def test_what_fits_passes():
    check()
    check(CLASSIC, machine=machine_of("10.13.3.9"), **CLASSIC_FACTS)
    check(config=UNCONDITIONAL)


def test_another_version_names_both_sides_and_the_way_out():
    with pytest.raises(InputError, match=r"1\.7\.1\.116; this machine has 1\.6\.0\.1.*sagan-deploy build .*rtx"):
        check(machine=machine_of("1.6.0.1"))


def test_another_gpu_names_both_sides_and_the_way_out():
    with pytest.raises(InputError, match=r"sm_89; the GPU of this machine is sm_86\..*--target sm_86"):
        check(machine=machine_of(capability=(8, 6)))


def test_the_way_out_names_the_onnx_it_was_built_from():
    source = onnx_artifact(b"x", "onnx/a.onnx").sha256
    with pytest.raises(InputError, match=r"sagan-deploy build onnx/a\.onnx"):
        check(machine=machine_of("1.6.0.1"), onnx_sha256=source)


def test_another_system_matters_to_classic_only():
    check(machine=machine_of(os="windows", arch="amd64"))
    with pytest.raises(InputError, match="built on linux x86_64; this is linux aarch64"):
        check(CLASSIC, machine=machine_of("10.13.3.9", arch="aarch64"), **CLASSIC_FACTS)


def test_manifest_and_plan_of_different_flavours():
    with pytest.raises(InputError, match="TensorRT for RTX, its manifest says TensorRT"):
        check(PAYLOAD, **CLASSIC_FACTS)


def test_manifest_and_plan_of_different_versions():
    with pytest.raises(InputError, match=r"says it is of version 1\.7\.1\.116, its manifest says 1\.8"):
        check(tensorrt_version="1.8.0.1")


def test_truncated_and_changed_plans():
    with pytest.raises(CorruptError, match="69 bytes"):
        check(PAYLOAD[:-1], described=PAYLOAD)
    with pytest.raises(CorruptError, match="SHA-256"):
        check(PAYLOAD[:-1] + b"x", described=PAYLOAD)


def test_profiles_that_cannot_be_filled():
    apart = profile(1, 2, 4)
    apart["labels"] = {"min": (1,), "opt": (2,), "max": (8,)}
    with pytest.raises(InputError, match="profile"):
        check(profiles=(apart,))
    wide = {"z": dict.fromkeys(("min", "opt", "max"), (1, 9)), "labels": dict.fromkeys(("min", "opt", "max"), (1,))}
    with pytest.raises(InputError, match="profile"):
        check(profiles=(wide,))


def test_an_onnx_entry_is_no_plan():
    artifact = dataclasses.replace(onnx_artifact(PAYLOAD, "m.plan"))
    with pytest.raises(InputError, match="not as a plan"):
        preflight(PAYLOAD, "m.plan", manifest_of([artifact]), artifact, machine_of())


def test_the_machine_is_asked_last_and_only_when_needed():
    asked = []
    with pytest.raises(InputError):
        check(b"ftrt" + PAYLOAD[4:], described=PAYLOAD, machine=machine_of(asked=asked))
    assert asked == []
    with pytest.raises(InputError):
        check(machine=machine_of("1.0.0.0", asked=asked))
    assert asked == ["version"]
    with pytest.raises(MissingError, match="no driver"):
        check(machine=machine_of(capability=MissingError("no driver"), asked=asked))
    assert asked == ["version", "version", "capability"]


def test_several_faults_are_reported_in_the_fixed_order():
    broken = PAYLOAD[:-1] + b"x"
    with pytest.raises(InputError, match="this machine has"):
        check(broken, described=PAYLOAD, machine=machine_of("1.0.0.0", (7, 5)))
    with pytest.raises(InputError, match="the GPU of this machine"):
        check(broken, described=PAYLOAD, machine=machine_of(capability=(7, 5)))
    with pytest.raises(InputError, match="SHA-256"):
        check(broken, described=PAYLOAD)
