"""The panel's page in a real browser: a whole panel by keyboard at the size of a phone, saved and scored."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ganinv.commands import panel as command
from ganinv.studies.panel.trials import CAUGHT, SWAPPED
from tests.test_panel import CONTROL, METHOD, made, world  # noqa: F401  fixtures
from tests.tiny_world import run_main

playwright = pytest.importorskip("playwright.sync_api", reason='needs Playwright: pip install -e ".[test,browser]"')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH: apt-get install chromium")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SCREEN = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
NO_STORAGE = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # its sandbox refuses root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def key(world, monkeypatch):  # noqa: F811
    """A panel of 11 pictures, panel.html in the working folder, and what its key says."""
    assert run_main(monkeypatch, command, "make", "runs", "--photos=photos", "--out=panel.html", "--catch=2") == 0
    return json.loads(Path("panel.key.json").read_text())


@pytest.fixture
def open_page(browser, key):
    """A function that opens the panel in a new browser profile; whatever it says, fails at or asks for is a failure."""
    heard, contexts = [], []

    def open_page(viewport=PHONE, script: str = "", **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        contexts[-1].add_init_script(script)
        page = contexts[-1].new_page()
        address = Path("panel.html").resolve().as_uri()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("data:", address)) else heard.append(request.url))
        page.set_default_timeout(30000)  # ms; a busy machine is slow
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if not line.startswith("blob:")] == []  # blob: the answers file on its way out


def begin(page, rater: str) -> None:
    page.fill("#rater", rater)
    page.press("#rater", "Enter")


def read_item(page) -> tuple[str, list[str]]:
    """Returns the id of the item on the screen, and its people as they stand from 1 to 5."""
    picture = page.get_attribute("#picture", "src")
    (item,) = [item["id"] for item in page.evaluate("panel.items") if item["picture"] == picture]
    return item, page.eval_on_selector_all(".person input", "radios => radios.map((radio) => radio.value)")


def read_order(page) -> list:
    """Returns the items with their people, as the rater who has begun will see them, by going through them."""
    seen = []
    while page.is_visible("#asking"):
        seen.append(read_item(page))
        page.keyboard.press("1")
        page.keyboard.press("Enter")
    return seen


def test_a_panel_is_answered_by_keyboard_survives_a_reload_and_is_scored(open_page, key, monkeypatch, capsys):
    page = open_page(has_touch=True, is_mobile=True)
    assert page.is_visible("text=This page contains photographs of real people.")
    assert "You will see 11 pictures" in page.inner_text("#starting")
    begin(page, "  Ada  Test ")
    seen = []
    for count in range(1, 12):
        assert page.inner_text("#progress") == f"Picture {count} of 11"
        item, people = read_item(page)
        seen.append(item)
        answer = key["items"][item]
        place = people.index(answer["answer"])
        if answer["kind"] == "control":
            place = (place + 1) % 5  # wrong in every control, right in all others
        if count == 1:
            page.keyboard.press("Enter")  # no choice yet
            assert page.inner_text("#progress") == "Picture 1 of 11" and "Choose one" in page.inner_text("#message")
            page.keyboard.press("Backspace")  # nowhere to go
        if count % 3:
            page.keyboard.press(str(place + 1))
        else:  # the first arrow chooses the first
            for _ in range(place + 1):
                page.keyboard.press("ArrowDown")
        assert (
            page.eval_on_selector_all(".person input", "radios => radios.map((radio) => radio.checked)").index(True) == place
        )
        width, height = page.evaluate(SCREEN)
        assert (width, height) == (390, 844)  # all five and the buttons without scrolling, to either side or down
        if count == 5:  # a choice is made, and not yet confirmed
            page.reload()
            assert page.input_value("#rater") == "Ada Test" and "5 of 11 is next" in page.inner_text("#kept")
            page.press("#rater", "Enter")
            assert read_item(page) == (item, people) and page.is_checked(f"input[value='{people[place]}']")
        if count == 7:
            page.keyboard.press("Backspace")
            assert page.inner_text("#progress") == "Picture 6 of 11" and read_item(page)[0] == seen[-2]
            page.keyboard.press("Enter")
        page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == f"answers-{key['panel']}-ada-test.json"
    download.value.save_as("answers.json")
    page.click("summary")
    assert page.input_value("#text") == Path("answers.json").read_text()
    saved = json.loads(Path("answers.json").read_text())
    assert saved["rater"] == "Ada Test" and [row["item"] for row in saved["answers"]] == seen
    assert all(0 < row["seconds"] < 60 for row in saved["answers"]) and len(json.dumps(saved)) < 5000

    capsys.readouterr()
    assert run_main(monkeypatch, command, "score", "--key=panel.key.json", "answers.json") == 0
    score = json.loads(Path("panel.score.json").read_text())
    assert {row["condition"]: row["accuracy"] for row in score["rows"]} == {
        METHOD: 1, CONTROL: 0, SWAPPED: 0, CAUGHT: 1
    }  # fmt: skip
    assert [rater["rater"] for rater in score["raters"]] == ["Ada Test"] and "control: " in capsys.readouterr().out


def test_the_order_follows_from_the_name_and_tells_nothing(open_page, key):
    orders = []
    for name in ("Ada", "Ada", "Bob"):  # each time a new profile
        page = open_page()
        begin(page, name)
        orders.append(read_order(page))
    assert orders[0] == orders[1] and orders[0] != orders[2]
    for order in orders:
        assert sorted(item for item, _ in order) == sorted(key["items"])
        assert all(sorted(people) == key["items"][item]["people"] for item, people in order)
        assert len({people.index(key["items"][item]["answer"]) for item, people in order}) > 2  # not always in one place
    assert dict(orders[0]) != dict(orders[2])  # nor in the same place for everybody
    items = [[item for item, _ in order] for order in orders]
    assert items[0] != items[2] and items[0] != sorted(items[0])


def test_it_works_by_touch_and_where_the_browser_keeps_nothing(open_page, key):
    page = open_page(script=NO_STORAGE, has_touch=True, is_mobile=True)
    assert "This browser keeps nothing" in page.inner_text("#kept")
    page.fill("#rater", "   ")
    page.tap("#start")
    assert page.is_visible("#starting")  # a name is needed
    page.fill("#rater", "Ada")
    page.tap("#start")
    assert "Do not reload" in page.inner_text("#message")
    for _ in range(11):
        page.tap(".person:nth-child(2)")
        page.tap("#next")
    assert page.is_visible("#ended") and len(json.loads(page.input_value("#text"))["answers"]) == 11
    page.tap("#again")
    assert page.inner_text("#progress") == "Picture 11 of 11"


def test_broken_answers_in_the_browser_are_passed_over(open_page, key):
    strange = {item: {"choice": "none", "seconds": 1} for item in key["items"]}  # nobody on this page
    for kept in ("{", "null", "[]", '{"at": 99}', json.dumps({"at": 3, "answers": strange})):
        name = f"ganinv-panel/{key['panel']}/answers/Ada"
        page = open_page(script=f"localStorage.setItem({json.dumps(name)}, {json.dumps(kept)})")
        begin(page, "Ada")
        assert page.inner_text("#progress") == "Picture 1 of 11", kept


CONTRASTS = """() => { // [text, contrast] of all that can be read, as WCAG 2.2 defines it
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (text) => {
    const [r, g, b] = rgb(text).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => { // the nearest background that is not transparent
    const colour = getComputedStyle(node).backgroundColor;
    return rgb(colour).length < 4 || rgb(colour)[3] > 0 ? colour : behind(node.parentElement);
  };
  return [...document.querySelectorAll("h1, p, strong, li, label, legend, button, summary, .badge, kbd")]
    .filter((node) => node.checkVisibility() && node.textContent.trim() && !node.disabled)
    .map((node) => {
      const [more, less] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((a, b) => b - a);
      return [node.textContent.trim().slice(0, 30), (more + 0.05) / (less + 0.05)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_can_be_read_in_both_themes(open_page, scheme):
    page = open_page(DESKTOP, color_scheme=scheme)
    grounds = []
    for step in range(3):
        if step == 1:
            begin(page, "Ada")
            page.keyboard.press("2")
        if step == 2:
            read_order(page)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 4 and not [pair for pair in contrasts if pair[1] < 4.5]
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate(SCREEN) == [1280, 900]
    assert set(grounds) == {"rgb(245, 244, 240)" if scheme == "light" else "rgb(20, 21, 24)"}


def test_what_a_screen_reader_needs_is_there(open_page):
    page = open_page()
    assert page.get_by_label("Your name, or the code that you were given").is_visible()
    begin(page, "Ada")
    assert page.get_attribute("#progress", "aria-live") == "polite" and page.get_attribute("html", "lang") == "en"
    group = page.get_by_role("group", name="Whom does it resemble most?")
    for place in range(1, 6):
        assert group.get_by_role("radio", name=f"Person {place}").count() == 1
    alts = page.eval_on_selector_all("#asking img", "images => images.filter((one) => !one.hidden).map((one) => one.alt)")
    assert alts == ["The picture to judge", *(f"Person {place}, photo 1" for place in range(1, 6))]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "radio"
    page.keyboard.press("4")
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")  # Back is disabled on the first picture
    assert page.evaluate("document.activeElement.id") == "next"
    page.keyboard.press("Enter")
    assert page.inner_text("#progress") == "Picture 2 of 11"
