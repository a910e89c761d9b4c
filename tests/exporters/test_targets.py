"""GPU names as people say them."""

import pytest

from exporters import targets
from exporters.errors import NoGpu, UnknownTarget, UnsupportedTarget
from exporters.gpu import Gpu
from exporters.targets import check_served, known_targets, resolve_targets


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("rtx-5090", "sm_120"),
        ("RTX 3080 Ti", "sm_86"),
        ("rtx4090", "sm_89"),
        ("4070", "sm_89"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "sm_89"),
        ("rtx_2080_super", "sm_75"),
        ("NVIDIA A100-SXM4-80GB", "sm_80"),
        ("Tesla T4", "sm_75"),
        ("quadro rtx a6000", "sm_86"),
        ("RTX 6000 Ada Generation", "sm_89"),
        ("h200", "sm_90"),
        ("jetson orin nano", "sm_87"),
        ("sm_89", "sm_89"),
        ("SM120", "sm_120"),
        ("8.6", "sm_86"),
        ("compute_90", "sm_90"),
        ("sm_101", "sm_101"),
    ],
)
def test_one_name(said, meant):
    (found,) = resolve_targets(said)
    assert found.name == meant
    assert found.name == f"sm_{found.compute_capability[0]}{found.compute_capability[1]}"


def test_lists_are_sorted_and_unique():
    assert [t.name for t in resolve_targets("rtx-5090, sm_89,rtx-4060")] == ["sm_89", "sm_120"]
    assert resolve_targets(["rtx-5090", "sm_89,4060"]) == resolve_targets("4060,5090")


def test_all_rtx_leaves_turing_to_those_who_ask():
    assert [t.name for t in resolve_targets("all-rtx")] == ["sm_80", "sm_86", "sm_89", "sm_120", "sm_121"]
    check_served(resolve_targets("all-rtx,t4"), "rtx")


@pytest.mark.parametrize(("said", "close"), [("rtx-4091", "rtx-4090"), ("h10", "h100"), ("rtx-6090", "rtx-")])
def test_unknown_suggests_the_closest(said, close):
    with pytest.raises(UnknownTarget, match=rf"{said!r} is no GPU known here\. Did you mean .*{close}"):
        resolve_targets(said)


def test_nothing_named():
    with pytest.raises(UnknownTarget, match="no target is named"):
        resolve_targets(" , ")


def test_local(monkeypatch):
    gpu = Gpu("NVIDIA L4", (8, 9), 24 * 2**30)
    monkeypatch.setattr(targets, "local_gpus", lambda: ((gpu, gpu), ""))
    assert [t.name for t in resolve_targets("local")] == ["sm_89"]
    monkeypatch.setattr(targets, "local_gpus", lambda: ((), "there is none"))
    with pytest.raises(NoGpu, match=r"there is none\. Name one"):
        resolve_targets("local")


@pytest.mark.parametrize("said", ["h100", "orin-nano", "jetson orin", "sm_103"])
def test_what_rtx_does_not_serve_has_another_way(said):
    said = "jetson-orin-nano" if said == "orin-nano" else said
    with pytest.raises(UnsupportedTarget, match="--flavour tensorrt --target local"):
        check_served(resolve_targets(said), "rtx")
    check_served(resolve_targets(said), "tensorrt")


@pytest.mark.parametrize("flavour", ["rtx", "tensorrt"])
def test_too_old_for_any(flavour):
    with pytest.raises(UnsupportedTarget, match=r"V100.*older than sm_75"):
        check_served(resolve_targets("v100"), flavour)


def test_every_known_name_resolves_to_its_own_row():
    for target in known_targets():
        for gpu in target.gpus:
            assert resolve_targets(gpu) == (target,), gpu
