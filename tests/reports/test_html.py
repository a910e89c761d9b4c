"""Both pages: well-formed, complete, alone, and not to be broken out of."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from sagan_deploy.reports.html import parity_page, png_uri, render
from tests.reports.made_up import (
    HOSTILE,
    SimpleData,
    hostile,
    leg,
    mixed,
    pictures,
    quality,
    quickstart_context,
    report,
)
from tests.reports.made_up_evidence import full

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The tags of a page, which must be balanced, its addresses and its text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.seen, self.addresses, self.text = [], [], [], ""
        self.tags, self.scripts = [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.tags.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data


def quickstart_page(**changes):
    return render("quickstart.html.j2", **quickstart_context(**changes))


PAGES = {
    "parity": lambda: parity_page(mixed()),
    "nothing ran": lambda: parity_page(report(leg("not_run"))),
    "hostile": lambda: parity_page(hostile()),
    "everything": lambda: parity_page(full()),
    "quickstart": quickstart_page,
    "quickstart with everything": lambda: quickstart_page(parity=full()),
    "hostile classes": lambda: quickstart_page(class_names=(HOSTILE,) * 3, parity=hostile()),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_balanced_and_need_nothing_else(name):
    source = PAGES[name]()
    page = Page(source)
    assert page.scripts == [(files("sagan_deploy.reports") / "templates/script.js").read_text()]
    assert page.seen.count("script") == 1
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.seen)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = {f"#{id_}" for id_ in ids}
    assert [a for a in page.addresses if a not in inside and not a.startswith("data:image/png;base64,")] == []
    assert "http://" not in source
    assert "https://" not in source
    assert "url(" not in source
    assert "@import" not in source


@pytest.mark.parametrize("broken", ["<p><b></p>", "<p>", "</p>"])
def test_that_the_check_can_fail(broken):
    with pytest.raises(AssertionError):
        Page(broken)


def test_hostile_strings_are_text():
    page = Page(parity_page(hostile()))
    assert page.text.count("<script>alert('1')</script>") >= 10
    page = Page(quickstart_page(class_names=(HOSTILE,) * 3))
    assert page.text.count("<script>alert('1')</script>") == 3


def test_parity_page_says_everything():
    text = " ".join(Page(parity_page(mixed())).text.split())
    for part in (
        "Parity FAILED: 1 passed, 1 FAILED, 1 not run",
        "the checkpoint's training form in PyTorch, float64",
        "tensor.rel_l2 passed 0.0021 ≤ 0.0095 +78 %",
        "3·u·√L with u = 2⁻¹¹ and L = 42 rounding layers",
        "image.codes FAILED 19 ≤ 1 −1800 %",
        "batch 1, image 0, channel 2, row 11, column 30",
        "tensor.max_abs FAILED NaN",
        "The first stage over its own budget is stages.1.attention: 0.031, limit 0.0042.",
        "generator.fp16.plan: this machine has no NVIDIA GPU",
        "the head dithers; agreed in review 12",
        "truncated 16 images",
        "onnxruntime 1.22.0",
        "difference × 128",
    ):
        assert part in text


def test_the_verdict_is_not_only_a_colour():
    assert "Parity passed" in Page(parity_page(report())).text
    nothing = parity_page(report(leg("not_run")))
    assert 'class="hero not_run"' in nothing
    assert "nothing ran" in nothing


def test_bars_show_the_share_of_the_limit():
    widths = re.findall(r'<div class="bar( over)?"[^>]*><span style="width:([\d.]+)%">', parity_page(mixed()))
    assert ("", "22.1") in widths  # 2.1e-3 of 9.5e-3
    assert (" over", "100.0") in widths


def test_pictures_are_those_of_the_report_in_their_order():
    page = Page(parity_page(report(leg("passed", pictures=pictures(count=2)))))
    addresses = [address for address in page.addresses if address.startswith("data:")]
    shown = [np.array(Image.open(io.BytesIO(base64.b64decode(a.split(",")[1])))) for a in addresses]
    expected = [image for p in pictures(count=2) for image in (p.reference, p.candidate, p.difference)]
    assert len(shown) == 6
    for a, b in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bytes_are_taken_as_they_are():
    assert png_uri(b"abc") == "data:image/png;base64,YWJj"


def test_quickstart_page_says_everything():
    text = " ".join(Page(quickstart_page()).text.split())
    for part in (
        "trained on 4000 images of “robots”",
        "blue green red",
        "recognised as their class 96.4 % goal ≥ 90 % reached",
        "classifier Fréchet distance 3.21 real against real 0.45",
        "kinds of body per class 8.1 real 9.7",
        "onnx/generator.fp32.onnx fp32 ONNX Runtime 3.46 MB 5e5e5e5e5e5e passed",
        "TensorRT-RTX 1.7.1 on sm_89, sm_120",
        "second plan the builder is not installed not made",
        "not run this machine has no NVIDIA GPU",
        "tensor.rel_l2 passed 0.0021",
        "train 3 min 00 s",
        "together 3 min 28 s",
        SimpleData.attribution,
    ):
        assert part in text


def test_a_missed_goal_is_said():
    context = quickstart_context()
    context["made"].quality = quality(label_share=0.89)
    assert "goal ≥ 90 % MISSED" in " ".join(Page(render("quickstart.html.j2", **context)).text.split())


def test_failed_parity_is_said():
    page = quickstart_page(parity=report(leg("failed")))
    assert 'class="banner failed"' in page
    assert "Parity FAILED" in page


def test_a_failed_verification_is_said():
    context = quickstart_context()
    wrong = dataclasses.replace(context["made"].verified.replays[0], status="failed", reason="other images")
    context["made"].verified = dataclasses.replace(context["made"].verified, replays=(wrong,))
    page = render("quickstart.html.j2", **context)
    assert 'class="banner failed"' in page
    assert "NOT VERIFIED" in page
    assert "other images" in page


@pytest.mark.parametrize("name", ["data", "class_names"])
def test_a_missing_value_is_an_error_not_a_gap(name):
    context = quickstart_context()
    del context[name]
    with pytest.raises(UndefinedError):
        render("quickstart.html.j2", **context)
