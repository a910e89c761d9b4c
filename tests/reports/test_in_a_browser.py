"""The parity page in a real browser. Skipped with that reason where no Chromium is installed."""

import contextlib
import shutil

import pytest

from sagan_deploy.reports.html import parity_page
from tests.reports.made_up_evidence import full

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium in PATH (chromium or google-chrome)")
#: WCAG 2.1, levels A and AA.
STANDARD = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(parity_page(full()))
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; whatever the browser complains about, or fetches, fails the test."""
    with contextlib.ExitStack() as stack:
        trouble = []

        def go(width=1280, height=900, **settings):
            context = browser.new_context(viewport={"width": width, "height": height}, **settings)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(5000)
            page.on("console", lambda message: trouble.append(message.text))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("request", lambda request: trouble.append(request.url) if asked(request.url) else None)
            page.goto(address)
            return page

        def asked(url):
            return not url.startswith("data:image/png") and url.partition("#")[0] != address

        yield go
        assert trouble == []


def seen(page, selector):
    return page.locator(f"{selector}:visible").count()


def enlarged(page):
    return page.evaluate("document.querySelector('figure:target')?.id")


def test_filters(opened):
    from playwright.sync_api import expect

    page = opened()
    assert seen(page, "details.leg") == 4
    page.get_by_label("failed only").check()
    assert (seen(page, "details.leg"), seen(page, "[data-gate]"), seen(page, "tr[data-leg]")) == (1, 6, 1)
    assert page.locator("output").inner_text() == "1 of 4 files, 6 gates"
    page.get_by_label("Rule").select_option("image.psnr")
    assert (seen(page, "[data-gate]"), seen(page, "figure.chart")) == (1, 1)
    page.get_by_label("failed only").uncheck()
    assert (seen(page, "details.leg"), seen(page, "[data-gate]")) == (2, 2)
    page.get_by_label("File").select_option("1")  # the inference form has no such gate
    assert seen(page, "details.leg") == 0
    assert page.get_by_text("Nothing fits these filters.").is_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("details.leg:visible")).to_have_count(4)  # a form's fields come back after its reset event
    assert (seen(page, "tr[data-leg]"), page.locator("output").inner_text()) == (4, "")


def test_pictures_enlarge_by_mouse_and_keys(opened):
    from playwright.sync_api import expect

    page = opened()
    image = page.locator("#picture-3-1 img").first
    small = image.bounding_box()["width"]
    page.get_by_label("enlarge normal, image 0").first.click()
    assert enlarged(page) == "picture-3-1"
    assert image.bounding_box()["width"] > 3 * small
    page.keyboard.press("ArrowRight")
    assert enlarged(page) == "picture-3-2"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert enlarged(page) == "picture-3-1"
    page.keyboard.press("Escape")
    assert enlarged(page) is None
    expect(page.locator(":focus")).to_have_attribute("href", "#picture-3-1")  # back where it was, in a moment
    assert image.bounding_box()["width"] == small


def test_it_works_without_scripts(opened):
    page = opened(java_script_enabled=False)
    assert seen(page, "#filters") == 0
    page.get_by_text("generator.fp16.onnx").locator("visible=true").last.click()
    assert seen(page, "#leg-2 [data-gate]") == 8
    small = page.locator("#picture-3-1 img").first.bounding_box()["width"]
    page.locator("#picture-3-1 .open").click()
    assert page.locator("#picture-3-1 img").first.bounding_box()["width"] > 3 * small
    page.locator("#picture-3-1 .close").click()
    assert page.locator("#picture-3-1 img").first.bounding_box()["width"] == small


def test_a_tablet_scrolls_tables_inside_their_cards(opened):
    page = opened(800, 1000)
    assert page.evaluate("document.documentElement.scrollWidth") == 800


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(opened, width):
    page = opened(width, 800)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = """() => [...document.querySelectorAll('main *')].filter((part) => part.getClientRects().length
        && !part.closest('.unseen, thead, svg') && part.getBoundingClientRect().right > innerWidth + 1).length"""
    assert page.evaluate(beyond) == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(opened, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = opened(width, color_scheme=scheme, bypass_csp=True)  # for axe's own script
    page.evaluate("document.querySelector('#leg-2').remove()")  # the failed leg has all that it has, and axe is slow
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = axe.run(page, options=STANDARD).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []


def test_paper_shows_everything(opened):
    page = opened()
    page.emulate_media(media="print")
    assert seen(page, "#filters") == 0
    assert page.locator("#leg-2 h4", has_text="Range audit").is_visible()
