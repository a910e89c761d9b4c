"""`sagan-deploy targets`."""

import json


def test_json(program):
    rows = {row["target"]: row for row in json.loads(program("targets", "--json").out)}
    assert rows["sm_89"] == {**rows["sm_89"], "rtx": True, "tensorrt": True, "all_rtx": True}
    assert "RTX 4090" in rows["sm_89"]["gpus"]
    assert rows["sm_75"] == {**rows["sm_75"], "rtx": True, "all_rtx": False}
    assert rows["sm_90"] == {**rows["sm_90"], "rtx": False, "tensorrt": True}


def test_it_says_what_can_be_built_here(program, monkeypatch):
    from exporters import gpu
    from exporters.tensorrt import backend

    monkeypatch.setattr(backend, "installed", lambda flavour: flavour == "rtx")
    rows = {row["target"]: row["built_here"] for row in json.loads(program("targets", "--json").out)}
    assert (rows["sm_89"], rows["sm_90"]) == (["rtx"], [])
    monkeypatch.setattr(backend, "installed", lambda flavour: flavour == "tensorrt")
    monkeypatch.setattr(gpu, "local_gpus", lambda: ((gpu.Gpu("NVIDIA H200", (9, 0), 1),), ""))
    rows = {row["target"]: row["built_here"] for row in json.loads(program("targets", "--json").out)}
    assert (rows["sm_89"], rows["sm_90"]) == ([], ["tensorrt"])


def test_table(program):
    outcome = program("targets")
    assert outcome.code == 0
    (row,) = [line for line in outcome.out.splitlines() if "sm_120" in line]
    assert "RTX 5090" in row
    assert "in all-rtx" in row
