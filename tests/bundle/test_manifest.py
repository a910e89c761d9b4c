"""The manifest round-trips, and everything that is off is refused in one line."""

import dataclasses
import json

import pytest

from sagan_deploy.bundle.manifest import SCHEMA_VERSION, Artifact, HashedFile, Limits, Manifest, check_path
from sagan_deploy.errors import InputError
from tests.tiny_models import CONFIG, UNCONDITIONAL, manifest_of, onnx_artifact, plan_artifact, plan_bytes, profile


def full_manifest() -> Manifest:
    artifacts = [
        onnx_artifact(b"a", "onnx/a.onnx", limits=Limits(1e-5, 1e-4)),
        plan_artifact(plan_bytes(), compute_capabilities=((8, 9), (12, 0)), targets=("sm_89", "sm_120")),
    ]
    files = (HashedFile("parity/report.json", "e" * 64),)
    return manifest_of(artifacts, golden=HashedFile("golden.npz", "f" * 64), files=files)


def changed(path: str, value: object) -> str:
    """The full manifest as JSON with the value at `path` (dots, numbers are list indices) replaced."""
    values = json.loads(full_manifest().to_json())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = values
    for parent in parents:
        target = target[parent]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return json.dumps(values)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Manifest.from_json(text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("manifest.json")
    return message


def test_round_trip_is_exact_and_stable():
    manifest = full_manifest()
    text = manifest.to_json()
    again = Manifest.from_json(text)
    assert again == manifest
    assert again.to_json() == text
    assert isinstance(again.artifacts[1].plan.profiles[0]["z"]["max"], tuple)


def test_unconditional_round_trip():
    manifest = manifest_of([onnx_artifact(b"a", "a.onnx", UNCONDITIONAL)], UNCONDITIONAL)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_names_outside_ascii_survive():
    manifest = dataclasses.replace(full_manifest(), class_names=("rouge", "grün", "青"))
    assert Manifest.from_json(manifest.to_json()).class_names[2] == "青"


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null", '{"schema_version": NaN}', "[" * 100_000])
def test_what_is_no_json_object(text):
    refusal(text)


def test_repeated_keys_have_no_single_meaning():
    assert "more than once" in refusal('{"schema_version": 1, "schema_version": 1}')


def test_another_schema_is_named_with_both_sides():
    message = refusal(changed("schema_version", 99))
    assert "99" in message
    assert str(SCHEMA_VERSION) in message


def test_a_file_of_another_kind_of_json():
    assert "schema_version" in refusal('{"name": "package"}')
    assert "schema_version" in refusal(changed("schema_version", True))


FIELDS = [f.name for f in dataclasses.fields(Manifest) if f.name != "schema_version"]


@pytest.mark.parametrize("path", [*FIELDS, *(f"artifacts.1.{f.name}" for f in dataclasses.fields(Artifact))])
def test_every_field_is_needed(path):
    assert path.split(".")[-1] in refusal(changed(path, KeyError))


def test_unknown_fields_are_refused():
    assert "colour" in refusal(changed("artifacts.0.colour", "red"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("toolkit_version", 1),
        ("class_names", "red"),
        ("class_names", ["red", 2, "blue"]),
        ("artifacts", {}),
        ("artifacts", []),
        ("artifacts.0", None),
        ("artifacts.0.size", "10"),
        ("artifacts.0.size", True),
        ("artifacts.0.size", 1.5),
        ("artifacts.0.size", 0),
        ("artifacts.0.kind", "torch"),
        ("artifacts.0.kind", "plan"),
        ("artifacts.0.kind", ["onnx"]),
        ("artifacts.0.sha256", "A" * 64),
        ("artifacts.0.sha256", "a" * 63),
        ("artifacts.0.verdict.status", "maybe"),
        ("artifacts.0.inputs.0.name", "latents"),
        ("artifacts.0.inputs.0.shape", ["n", 9]),
        ("artifacts.0.inputs.0.shape", ["n", None]),
        ("artifacts.0.outputs", []),
        ("artifacts.0.outputs.0.shape", ["n", 3, 16, 16]),
        ("artifacts.0.output", "uint8"),
        ("artifacts.0.limits.max_abs", 2.0),
        ("artifacts.0.limits.rel_l2", -1),
        ("artifacts.1.plan.activation_bytes", -1),
        ("artifacts.1.plan.compute_capabilities", [[8]]),
        ("artifacts.1.plan.profiles", []),
        ("artifacts.1.plan.profiles.0.z.min", [8, 8]),
        ("artifacts.1.plan.profiles.0.z", {"min": [1, 8]}),
        ("artifacts.1.plan.profiles.0", {"z": {"min": [1, 8], "opt": [1, 8], "max": [1, 8]}}),
        ("generator.num_classes", 4),
        ("generator.widths", "wide"),
        ("generator.colour", 1),
        ("generator", None),
        ("golden", "golden.npz"),
        ("golden.path", "onnx/a.onnx"),
        ("golden.path", "manifest.json"),
        ("provenance", [1]),
        ("tools", {"torch": 2}),
        ("checkpoint_sha256", "abc"),
    ],
)
def test_wrong_values_are_refused(path, value):
    refusal(changed(path, value))


BAD_PATHS = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "",
    "a/",
    "a\\b",
    "..\\x",
    "C:/x",
    "a\0b",
    "a\nb",
    ".",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_stay_inside(path):
    with pytest.raises(InputError):
        check_path(path)
    refusal(changed("artifacts.0.path", path))
    refusal(changed("golden.path", path))
    refusal(changed("files.0.path", path))


@pytest.mark.parametrize("path", ["a.onnx", "onnx/a.fp16.onnx", "deep/er/a-b_c.plan", "..a/b..", "größe.onnx"])
def test_plain_paths_are_fine(path):
    check_path(path)


def test_float_and_uint8_do_not_mix():
    artifacts = [onnx_artifact(b"a", "a.onnx"), onnx_artifact(b"b", "b.onnx", output="uint8")]
    with pytest.raises(InputError, match="uint8"):
        manifest_of(artifacts)


def test_largest_and_smallest_batch():
    plan = plan_artifact(plan_bytes(), profiles=(profile(2, 4, 8), profile(16, 16, 32)), config=CONFIG).plan
    assert (plan.min_batch, plan.max_batch) == (2, 32)


@pytest.mark.parametrize(("config", "artifact_config"), [(CONFIG, UNCONDITIONAL), (UNCONDITIONAL, CONFIG)])
def test_labels_are_there_exactly_when_there_are_classes(config, artifact_config):
    with pytest.raises(InputError, match="config says"):
        manifest_of([onnx_artifact(b"a", "a.onnx", artifact_config)], config)


def test_plain_values_are_those_of_the_json():
    manifest = full_manifest()
    assert json.loads(json.dumps(manifest.to_dict())) == json.loads(manifest.to_json())
