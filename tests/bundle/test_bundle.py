"""A bundle on disk: whole, or refused by name."""

import json

import numpy as np
import pytest

from sagan_deploy.bundle.bundle import (
    CorruptError,
    find_manifest,
    finish_bundle,
    open_bundle,
    sidecar_path,
    unlisted_files,
)
from sagan_deploy.bundle.golden import Golden, golden_bytes, parse_golden
from sagan_deploy.errors import InputError
from tests.tiny_models import (
    CONFIG,
    UNCONDITIONAL,
    golden_of,
    make_bundle,
    manifest_of,
    onnx_artifact,
    plan_artifact,
    plan_bytes,
    tiny_onnx,
)


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "bundle", plan=plan_bytes())


def test_a_fresh_bundle_is_whole(folder):
    bundle = open_bundle(folder)
    steps = []
    assert bundle.verify_hashes(lambda *step: steps.append(step)) == 5  # two models, a plan, golden images, README
    assert steps[-1] == ("hashes", 5, 5)
    assert unlisted_files(bundle) == ()


@pytest.mark.parametrize("name", ["onnx/fp32.onnx", "engines/sm_89.plan", "golden.npz", "README.md"])
def test_one_changed_byte_anywhere_is_found(folder, name):
    path = folder / name
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)
    with pytest.raises(CorruptError, match=name):
        open_bundle(folder).verify_hashes()


def test_read_checks_the_hash_first(folder):
    (folder / "golden.npz").write_bytes(b"PK not an archive")
    with pytest.raises(CorruptError, match="SHA-256"):
        open_bundle(folder).golden()


def test_a_missing_file_is_named(folder):
    (folder / "onnx/fp32.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks onnx/fp32\.onnx"):
        open_bundle(folder).verify_hashes()


@pytest.mark.parametrize("link", ["onnx", "onnx/fp32.onnx"])
def test_links_are_refused_even_to_equal_content(folder, tmp_path, link):
    original = folder / link
    moved = tmp_path / "elsewhere"
    original.rename(moved)
    original.symlink_to(moved)
    with pytest.raises(InputError, match="symbolic link"):
        open_bundle(folder).verify_hashes()


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "current").symlink_to(folder)
    assert open_bundle(tmp_path / "current").verify_hashes() == 5


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_what_is_no_bundle(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("x")
    elif what == "empty":
        path.mkdir()
    with pytest.raises(InputError, match="no bundle"):
        open_bundle(path)


def test_a_manifest_that_is_no_text(folder):
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text"):
        open_bundle(folder)


def test_finish_refuses_what_is_not_listed(tmp_path):
    payload = tiny_onnx()
    (tmp_path / "a.onnx").write_bytes(payload)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt"):
        finish_bundle(tmp_path, manifest_of([onnx_artifact(payload, "a.onnx")]))


def test_finish_refuses_a_wrong_hash(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"other")
    with pytest.raises(CorruptError):
        finish_bundle(tmp_path, manifest_of([onnx_artifact(b"right", "a.onnx")]))


def test_readme_shows_this_very_bundle(folder):
    text = (folder / "README.md").read_text()
    for part in ("8×8", "red, green, blue", "'red'", "sm_89", "not run: no GPU", "sagan-deploy[rtx]", "n × 3 × 8 × 8"):
        assert part in text


def test_readme_of_an_unconditional_one_has_no_labels(tmp_path):
    text = (make_bundle(tmp_path / "b", UNCONDITIONAL) / "README.md").read_text()
    assert "labels" not in text
    assert "generator(z)" in text


def test_manifest_of_a_plan_from_its_sidecar_or_its_bundle(folder, tmp_path):
    assert find_manifest(folder / "engines/sm_89.plan")[1].path == "engines/sm_89.plan"
    alone = tmp_path / "alone.plan"
    alone.write_bytes(plan_bytes())
    assert find_manifest(alone) is None
    sidecar_path(alone).write_text(manifest_of([plan_artifact(plan_bytes(), "alone.plan")]).to_json())
    assert find_manifest(alone)[1].path == "alone.plan"
    sidecar_path(alone).write_text(manifest_of([onnx_artifact(b"x", "alone.onnx")]).to_json())
    with pytest.raises(InputError, match="one plan"):
        find_manifest(alone)


@pytest.mark.parametrize("config", [CONFIG, UNCONDITIONAL])
def test_golden_round_trip_with_equal_bytes(config):
    golden = golden_of(config)
    payload = golden_bytes(golden)
    assert payload == golden_bytes(golden)
    again = parse_golden(payload, config)
    np.testing.assert_array_equal(again.images, golden.images)
    assert (again.labels is None) == (config is UNCONDITIONAL)


@pytest.mark.parametrize("damage", ["type", "shape", "nan", "missing", "count", "pickle", "empty", "garbage"])
def test_golden_refuses(damage):
    golden = golden_of()
    z, labels, images = golden.z, golden.labels, golden.images.copy()
    if damage == "type":
        z = z.astype(np.float64)
    elif damage == "shape":
        images = images[:, :, :4]
    elif damage == "nan":
        images[1, 0, 0, 0] = np.nan
    elif damage == "missing":
        labels = None
    elif damage == "count":
        labels = labels[:-1]
    elif damage == "empty":
        z, labels, images = z[:0], labels[:0], images[:0]
    payload = b"PK\x03\x04 garbage" if damage == "garbage" else golden_bytes(Golden(z, labels, images))
    if damage == "pickle":
        import io

        stream = io.BytesIO()
        np.savez(stream, z=np.array([print], dtype=object))
        payload = stream.getvalue()
    with pytest.raises(InputError, match="golden"):
        parse_golden(payload, CONFIG)


def test_the_manifest_on_disk_is_readable_json(folder):
    values = json.loads((folder / "manifest.json").read_text())
    assert values["artifacts"][0]["path"] == "onnx/fp32.onnx"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
