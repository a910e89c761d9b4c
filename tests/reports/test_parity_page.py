"""The parity page: all evidence is there, absent evidence leaves no gap, and everybody can read it."""

import base64
import dataclasses
import hashlib
import itertools
import re

import pytest

from sagan_deploy.reports.html import parity_page
from tests.reports.made_up import leg, mixed, report
from tests.reports.made_up_evidence import bad_leg, full, good_leg, plan_leg, ranges
from tests.reports.test_html import PAGES, Page


def text(page):
    return " ".join(page.text.split())


@pytest.fixture(scope="module")
def everything():
    return Page(parity_page(full()))


@pytest.mark.parametrize(
    "part",
    [
        "Parity FAILED: 2 passed, 1 FAILED, 1 not run",
        "The worst: image.ssim is 0.981 at permuted, image 33, the limit is ≥ 1 − 0.001 (generator.mixed.onnx).",
        "generator.mixed.onnx: first stage over its own budget: stages.1.attention (0.06, limit 0.002).",
        "stages.1.attention in float32, with the checkpoint's weights, takes 93 % of the error away.",
        "3 of 4 legs judged here",
        "150 images per file in 7 cases",
        "difference × 8",
        "stages.1.attention, normal, image 0: row 8, column 12 looks; weights differ by at most 0.034",
        "stages.1.attention 0.06 0.002 over: 30 × the budget",
        "stages.1.attention 0.031 0.0021 +93 %",
        "150 images: median 0.0146, worst NaN (normal, image 57), limit ≤ 0.0095, 140 of 150 over it",
        "1 of 20 tensors overflow. Attention logits reach 160000 (−1.3 bits to overflow).",
        "attention logits overflows",
        "The plan's 4 kernels",
        "mha: MatMul · Softmax",
        "fp16.image.ssim 0.99: the head dithers; agreed in review 12",
        'train preset sagan32 steps 1097 data {"name": "robots"',
        "Make this report again sagan-deploy parity run/generator.safetensors bundle --seed 7",
    ],
)
def test_it_says(everything, part):
    assert part in text(everything)


def test_the_failed_leg_comes_first_and_open(everything):
    legs = [attributes for tag, attributes in everything.tags if tag == "details" and "data-leg" in attributes]
    assert [leg["data-status"] for leg in legs] == ["failed", "passed", "passed", "not_run"]
    assert ["open" in leg for leg in legs] == [True, False, False, False]
    good = Page(parity_page(full(good_leg())))
    assert all("open" in attributes for tag, attributes in good.tags if attributes.get("id", "").startswith("leg-"))


ABSENT = {
    "pictures": ((), "Worst images first"),
    "maps": ((), "Where attention looks"),
    "stages": ((), "Stage by stage"),
    "gains": ((), "What float32 would mend"),
    "images": (None, "Errors of 150 images"),
    "ranges": (None, "Range audit"),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_a_leg_does_not_have_does_not_appear(name):
    nothing, heading = ABSENT[name]
    assert heading in text(Page(parity_page(full(bad_leg()))))
    lacking = text(Page(parity_page(full(dataclasses.replace(bad_leg(), **{name: nothing})))))
    assert heading not in lacking
    for other in {words for _, words in ABSENT.values()} - {heading}:
        assert other in lacking


def test_bare_reports_have_no_empty_headings():
    bare = text(Page(parity_page(report(leg("passed", pictures=())))))
    for heading in ("Where the checkpoint comes from", "Make this report again", "kernels", "not run", "policy"):
        assert heading not in bare
    no_kernels = dataclasses.replace(plan_leg(), artifact=None)
    assert "kernels" not in text(Page(parity_page(full(no_kernels))))
    empty = dataclasses.replace(ranges(), rows=())
    assert "Over 75 latents" in text(Page(parity_page(full(leg("passed", ranges=empty)))))


def test_the_policy_allows_this_script_and_nothing_else(everything):
    policies = [a["content"] for _, a in everything.tags if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = everything.scripts
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": f"'sha256-{expected}'",
    }


def test_every_picture_has_words_of_its_own(everything):
    alts = [attributes["alt"] for tag, attributes in everything.tags if tag == "img"]
    assert all(alts)
    assert "difference of normal, image 3" in alts
    labels = [attributes["aria-label"] for tag, attributes in everything.tags if tag == "svg"]
    assert len(labels) == 18
    assert all(len(label) > 30 for label in labels)


def test_a_ring_stands_where_the_query_is_in_the_feature_map(everything):
    """Pooled keys make a smaller map than the queries': 16 × 16 places for a query of 32 × 32."""
    marks = [a["style"] for tag, a in everything.tags if tag == "i" and a.get("title") == "the position that looks"]
    assert marks[0] == marks[1] == f"left:{100 * 12.5 / 32:.2f}%;top:{100 * 8.5 / 32:.2f}%"


def test_tables_say_what_they_are(everything):
    tables = [attributes for tag, attributes in everything.tags if tag == "table"]
    assert everything.seen.count("caption") == len(tables)
    assert all(attributes.get("role") == "table" for attributes in tables)
    heads = [attributes for tag, attributes in everything.tags if tag == "th"]
    assert {(a["scope"], a["role"]) for a in heads} == {("col", "columnheader"), ("row", "rowheader")}
    assert {"main", "header", "footer"} <= set(everything.seen)
    levels = [int(tag[1]) for tag in everything.seen if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", ["everything", "quickstart with everything"])
def test_numbers_keep_their_names_where_tables_become_cards(name):
    cells = [attributes for tag, attributes in Page(PAGES[name]()).tags if tag == "td"]
    numbers = [a for a in cells if "number" in a.get("class", "").split() and "time" not in a["class"].split()]
    assert len(numbers) > 20
    assert [a for a in numbers if not a.get("data-label")] == []


def test_pictures_are_enlarged_by_links_alone(everything):
    links = [attributes for tag, attributes in everything.tags if tag == "a"]
    strips = [a["id"] for tag, a in everything.tags if tag == "figure" and "strip" in a["class"]]
    assert [a["href"][1:] for a in links if a.get("class") == "open"] == strips
    assert [a["href"][1:] for a in links if a.get("class") == "close"] == [f"{id_}-place" for id_ in strips]
    steps = [a["href"][1:] for a in links if a.get("class") == "step"]
    assert set(steps) <= set(strips)
    assert len(steps) == 2 * (4 - 1) * 2 + 2  # four pictures in two legs, two maps in one of them


def test_what_filters_need_is_in_the_page(everything):
    gates = [attributes for _, attributes in everything.tags if "data-gate" in attributes]
    assert len(gates) == sum(len(found.gates) for found in full().legs)
    assert sum(attributes["data-status"] == "failed" for attributes in gates) == len(bad_leg().failed_gates)
    assert next(attributes for tag, attributes in everything.tags if tag == "form").keys() >= {"hidden", "aria-label"}


def contrast(one, two):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_colours_have_contrast(scheme):
    style = re.search(r"<style>(.*?)</style>", parity_page(mixed()), re.DOTALL)[1]
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block, re.IGNORECASE))
    colours = {"focus": colours["link"]} | colours  # on paper nothing has the focus
    for ink in ("ink", "soft", "link", "good", "bad", "off"):
        for ground in ("page", "card"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for word in ("good", "bad", "off"):
        assert contrast(colours[word], colours[f"{word}-tint"]) >= 4.5, word
        assert contrast(colours["ink"], colours[f"{word}-tint"]) >= 4.5, word
    for shape in ("bar", "bad", "focus"):
        assert contrast(colours[shape], colours["card"]) >= 3, shape
