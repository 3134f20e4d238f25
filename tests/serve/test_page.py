"""The page in a real browser: typing a caption, dropping a picture, neighbours, the regions of a word."""

import base64
import shutil
from collections.abc import Iterator

import pytest

from jax_itm.search.index import SearchIndex
from tests.helpers.searching import CAPTIONS, make, served, untrained_clip

pytest.importorskip("playwright", reason="needs the package playwright")
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> SearchIndex:
    folder = tmp_path_factory.mktemp("page")
    return SearchIndex(make(folder, untrained_clip(folder), score="maxmean"))


@pytest.fixture(scope="module")
def page(index) -> Iterator[Page]:
    """An open page, whose script must raise no error and load nothing from elsewhere."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    errors = []
    with served(index) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((url, "blob:", "data:")) or errors.append(request.url),
        )
        page.goto(url)
        yield page
        browser.close()
    assert not errors


def names(page: Page, count: int) -> list[str]:
    """The pictures that are shown."""
    shown = page.locator("#pictures img")
    expect(shown).to_have_count(count)
    return [image.get_attribute("alt") for image in shown.all()]


def test_typing_shows_pictures_at_once(page, index):
    expect(page).to_have_title("12 pictures")
    for text in CAPTIONS[:2]:
        page.get_by_label("caption").fill(text)  # no Enter
        best = index.pictures_for_text(text, 24)
        expect(page.locator("#pictures button").first).to_have_attribute("data-id", str(best[0].id))
        assert names(page, 12) == [hit.name for hit in best]
    loaded = "image => image.complete && image.naturalWidth > 0"
    page.locator("#pictures img").first.evaluate("image => image.decode()")
    assert page.locator("#pictures img").first.evaluate(loaded)
    page.get_by_label("caption").fill("")
    names(page, 0)


def test_a_dropped_picture_shows_captions_and_neighbours(page, index):
    file = sorted(index.images.rglob("*.png"))[3]
    page.evaluate(DROP, [file.name, base64.b64encode(file.read_bytes()).decode()])
    expect(page.locator("#captions li")).to_have_count(len(CAPTIONS))
    expected = index.captions_for_image(index.pixels(file), 24)
    shown = [line.text_content() for line in page.locator("#captions li").all()]
    assert shown == [f"{hit.score:.4f}{hit.name}" for hit in expected]
    assert names(page, 12)[0] == file.relative_to(index.images).as_posix()


def test_what_is_no_picture_is_said(page):
    page.evaluate(DROP, ["note.txt", base64.b64encode(b"no picture").decode()])
    expect(page.locator("#status")).to_contain_text("picture: not a readable image")
    expect(page.locator("#status")).to_have_class("error")


def test_a_word_shows_its_regions(page):
    page.get_by_label("caption").fill("two cats")
    names(page, 12)
    chosen = page.locator("#pictures button").nth(2)
    number = chosen.get_attribute("data-id")
    chosen.click()
    words = page.locator("#words button")
    expect(words.first).to_be_visible()
    assert number not in [
        button.get_attribute("data-id") for button in page.locator("#pictures button").all()
    ]
    words.first.click()
    expect(words.first).to_have_attribute("aria-pressed", "true")
    strengths = [float(box.get_attribute("fill-opacity")) for box in page.locator("#regions rect").all()]
    assert max(strengths) == pytest.approx(0.75) and min(strengths) == 0
