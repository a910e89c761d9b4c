"""What is asked of glibc's heap around the opening of a model, and that every way out leaves it as promised."""

import ctypes
import sys

import pytest

from sagan_deploy.runtime import heap

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
MIB = 1024 * 1024
LARGE = 200 * MIB


class Library:
    """Stands for glibc and notes what it is asked for."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))
        return 1

    def malloc_trim(self, pad):
        self.calls.append(("trim", pad))
        return 1


@pytest.fixture
def library(monkeypatch):
    double = Library()
    monkeypatch.setattr(heap, "_glibc", lambda: double)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return double


RESTORED = [(MMAP_THRESHOLD, 32 * MIB), (TRIM_THRESHOLD, 64 * MIB), ("trim", 0)]


def test_large_blocks_are_mapped_while_a_large_model_is_opened(library):
    with heap.lean_heap(LARGE):
        assert library.calls == [(MMAP_THRESHOLD, MIB // 4)]
    assert library.calls[1:] == RESTORED


def test_a_failed_opening_restores_it_too(library):
    with pytest.raises(ValueError, match="broken"), heap.lean_heap(LARGE):
        raise ValueError("broken")
    assert library.calls[1:] == RESTORED


def test_a_small_model_changes_nothing_for_the_process(library):
    with heap.lean_heap(32 * MIB - 1):
        assert library.calls == []
    assert library.calls == [("trim", 0)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_MMAP_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000")],
)
def test_the_users_own_threshold_stands(library, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with heap.lean_heap(LARGE):
        assert library.calls == []
    assert library.calls == [("trim", 0)]


def test_other_tunables_are_none_of_its_business(library, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    with heap.lean_heap(LARGE):
        assert library.calls == [(MMAP_THRESHOLD, MIB // 4)]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_does_nothing(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("looked for glibc"))
    with heap.lean_heap(LARGE):
        pass


def test_another_c_library_is_left_alone(monkeypatch):
    class Musl:
        def mallopt(self, *_):
            pytest.fail("another library's function of that name was called")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: Musl())
    with heap.lean_heap(LARGE):
        pass
