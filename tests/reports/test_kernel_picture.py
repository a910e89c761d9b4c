"""The picture of a plan: every kernel in its part, nothing to load, nothing to break out of."""

import re

import pytest
from jinja2 import UndefinedError

from sagan_deploy.bundle.kernels import Kernel, grouped
from sagan_deploy.reports.html import _environment
from tests.reports.made_up import HOSTILE
from tests.reports.test_html import Page

KERNELS = (
    Kernel("stem/Gemm", "gemm", ("float16",), ("stem/Gemm",), "product"),
    Kernel(
        "_gemm_mha_v2", "kgen", ("float16",), ("stages.0.attention/MatMul", "stages.0.attention/Softmax"), "attention"
    ),
    Kernel(
        "GathMul", "kgen", ("float16", "int64"), ("stages.0.block.affine/Gather", "stages.0.block.affine/Mul"), "other"
    ),
    Kernel("nameless", "copy", (), (), "other"),
)


def picture(kernels=KERNELS, given="z float32 [n, 8]", made="images uint8 [n, 8, 8, 3]"):
    source = '{% import "kernels.html.j2" as engine %}{{ engine.kernel_picture(groups, given, made) }}'
    return _environment().from_string(source).render(groups=grouped(kernels), given=given, made=made)


def test_every_part_and_kernel_once_in_the_order_of_the_images():
    page = Page(picture())
    words = re.sub(r"\s+", " ", page.text)
    places = [
        words.index(text) for text in ("z float32 [n, 8]", "generator", "stem", "stages.0.attention", "images uint8")
    ]
    assert places == sorted(places)
    assert page.seen.count("li") == 4
    assert [words.count(text) for text in ("nameless", "Gemm", "Gather · Mul")] == [1, 1, 1]
    # In words too, as colours are not for everybody.
    assert words.count("mha: MatMul · Softmax") == 1
    assert words.count("1 kernel ") == 4
    assert words.count("int64") == 1


def test_a_title_says_what_a_kernel_reads_and_covers():
    source = picture()
    assert (
        'title="_gemm_mha_v2 reads float16; ONNX nodes: stages.0.attention/MatMul, stages.0.attention/Softmax"'
        in source
    )
    assert 'title="nameless reads nothing; ONNX nodes: none"' in source


def test_the_roles_are_those_that_the_style_knows():
    style = _environment().loader.get_source(_environment(), "kernels.css")[0]
    source = picture()
    for role in ("attention", "product"):
        assert source.count(f'class="kernel {role}"') == 2  # in the legend, and the one kernel
        assert f".kernel.{role} " in style
    assert "url(" not in style
    assert "@import" not in style


def test_nothing_is_loaded_and_nothing_runs():
    page = Page(picture())
    assert page.addresses == []
    assert not {"script", "link", "iframe", "style"} & set(page.seen)


def test_hostile_names_stay_text():
    odd = Kernel(HOSTILE, "kgen", (HOSTILE,), (f"{HOSTILE}/{HOSTILE}",), "other")
    page = Page(picture((odd,), given=HOSTILE, made=HOSTILE))
    assert not {"script", "img"} & set(page.seen)
    assert HOSTILE in page.text


def test_what_is_no_kernel_is_an_error_and_no_gap():
    with pytest.raises(UndefinedError):
        _environment().from_string('{% import "kernels.html.j2" as e %}{{ e.kernel_picture(groups, "", "") }}').render()
