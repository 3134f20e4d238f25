"""The report's page: what it says is true, it needs no network, and a browser shows it in light and dark."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.prepared import open_split
from jax_itm.data.scenes import render
from jax_itm.plots import figures
from jax_itm.plots.page.curves import loss_panels, training_panels
from jax_itm.plots.page.embedded import inline_svg
from jax_itm.plots.page.page import run_names, write_page
from jax_itm.plots.page.retrieval import ranks_of, retrieve, text_query, typical, worst
from jax_itm.plots.page.retrieval_panels import plane, rank_labels, rank_shares
from jax_itm.plots.runs import read_run
from tests.helpers.errors import says
from tests.plots.test_report import BASELINE, run, seeded

SMALL = ["batch_size=16", "dim=16", "duration=8 steps", "evaluate.every=4 steps", "evaluate.batch_size=16"]
SMALL += ["text.name=bow", "text.pooling=mean", "image.pooling=mean", "log_every=1"]  # quick to compile


def plain_ranks(scores, caption_image):
    i2t = []
    for image, row in enumerate(scores):
        best = max(score for score, own in zip(row, caption_image, strict=True) if own == image)
        others = [score for score, own in zip(row, caption_image, strict=True) if own != image]
        i2t.append(1 + sum(score >= best for score in others))
    t2i = []
    for caption, image in enumerate(caption_image):
        others = [scores[k, caption] for k in range(len(scores)) if k != image]
        t2i.append(1 + sum(score >= scores[image, caption] for score in others))
    return i2t, t2i


def test_ranks_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    caption_image = np.repeat(np.arange(7), [1, 3, 2, 2, 1, 4, 2])
    scores = rng.integers(0, 6, (7, 15)).astype(np.float32)  # many ties
    i2t, t2i = plain_ranks(scores, caption_image)
    actual = ranks_of(scores, caption_image)
    np.testing.assert_array_equal(actual.i2t, i2t)
    np.testing.assert_array_equal(actual.t2i, t2i)


def test_worst_and_typical_take_one_query_of_a_group():
    ranks = np.array([9, 9, 1, 4, 5, 4, 2, 8])
    group = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    assert worst(ranks, group) == [0, 7, 4]
    assert typical(ranks, group) == [3, 4, 5]  # the median is 4.5


def test_the_bars_of_ranks_count_every_query_once():
    assert rank_labels() == ["1", "2-5", "6-10", "11-20", "21-50", "51-100", "101 or more"]
    shares = rank_shares(np.array([1, 1, 2, 5, 6, 100, 101, 5000]))
    np.testing.assert_allclose(shares, np.array([2, 2, 1, 0, 0, 1, 2]) * 12.5)


def test_the_plane_has_the_principal_axes_and_the_gap():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 5)) * [9, 3, 0.1, 0.1, 0.1]
    captions = np.repeat(images, 2, axis=0) + np.array([20, 0, 0, 0, 0])
    points = plane(images, captions, np.repeat(np.arange(6), 2))
    assert points.gap == pytest.approx(20) and points.share > 0.99
    distance = np.linalg.norm(points.images - points.captions, axis=1)
    np.testing.assert_allclose(distance, 20, rtol=1e-2)


def test_a_drawing_takes_the_colour_of_the_page():
    figure = figures.new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], color="#000000")
    axes.set_xlabel("a & b")
    svg = inline_svg(figure, 'says "x" < y')
    assert svg.startswith('<svg role="img" aria-label="says &quot;x&quot; &lt; y"')
    assert "currentColor" in svg and "#000000" not in svg and ">a &amp; b</text>" in svg
    assert not re.search(r'id="[a-z._0-9]*_\d+"', svg)


def test_curves_are_said_in_words(tmp_path):
    runs = [read_run(run(tmp_path / f"{seed}", seeded(seed))) for seed in (3, 4)]
    named = list(zip(run_names(runs), runs, strict=True))
    loss, term = loss_panels(named)
    assert (loss.title, term.title) == ("loss", "dim, weighted")
    words = "dias_scenes (dias), seed 3: -0 at step 0, -4 at step 4, between -4 and -0"
    assert words in term.svg and "seed 4" in term.svg
    assert [panel.title for panel in training_panels(named)] == ["validation rSum"]
    assert run_names(runs) == ["dias_scenes (dias), seed 3", "dias_scenes (dias), seed 4"]


class Page(HTMLParser):
    """What a page has: its tags with their attributes, its addresses, its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def accessible(page):
    """What a screen reader needs, and that nothing comes from elsewhere."""
    images = page.of("img")
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.of("svg"))
    assert all(cell["scope"] in ("col", "row") for cell in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    identifiers = [
        attrs["id"] for tag, attrs in page.tags if "id" in attrs and tag in ("section", "h2", "main")
    ]
    assert len(identifiers) == len(set(identifiers))
    links = [attrs["href"] for attrs in page.of("a")]
    assert {link[1:] for link in links} <= set(identifiers)
    assert not page.of("script") and all(link["href"] == "data:," for link in page.of("link"))


def test_without_checkpoints_and_data_a_page_says_what_it_leaves_out(tmp_path):
    runs = [run(tmp_path / "a"), run(tmp_path / "b", seeded(3, run="<b>other") | {"baselines": [BASELINE]})]
    out = tmp_path / "report.html"
    table = write_page(runs, str(out))
    assert "bag of words" in table
    text = out.read_text()
    page = Page(text)
    accessible(page)
    assert "<b>other" not in text and "&lt;b&gt;other (dias)" in text
    said = "".join(page.text)
    assert f"dias_scenes (dias): queries, ranks and embeddings: {runs[0]}: no checkpoint there" in said
    assert "122.6" in said and "Caption to image" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "report.html"]


def test_the_file_names_the_kind_of_report(tmp_path, capsys):
    workdir = run(tmp_path / "a")
    status = main(["report", workdir, "--out", str(tmp_path / "r.pdf")])
    says(capsys, status, "r.pdf: must be a page, .html, or a figure, .png")
    assert main(["report", workdir, "--out", str(tmp_path / "r.png")]) == 0
    assert Image.open(tmp_path / "r.png").format == "PNG"


def test_a_page_needs_jinja2(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    out = tmp_path / "r.html"
    status = main(["report", run(tmp_path / "a"), "--out", str(out)])
    says(capsys, status, f"--out {out}: needs the package jinja2: pip install -e .[report]")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Two runs on few scenes, by their seeds, and their page."""
    place = tmp_path_factory.mktemp("page")
    splits = dict(render.SPLITS)
    render.SPLITS.update(dict.fromkeys(render.SPLITS, 24))
    assert main(["prepare", "scenes", "--data_dir", str(place / "data")]) == 0
    render.SPLITS.update(splits)
    fields = [f"--config.{field}" for field in [*SMALL, f"data.data_dir={place}/data"]]
    runs = [str(place / name) for name in ("first", "second")]
    for seed, workdir in enumerate(runs):
        train = ["train", "--config", "configs/dias_scenes.py", "--workdir", workdir, f"--config.seed={seed}"]
        assert main([*train, *fields]) == 0
        assert main(["evaluate", "--workdir", workdir, "--out", f"{workdir}/result.json"]) == 0
    out = place / "report.html"
    assert main(["report", *runs, "--out", str(out)]) == 0
    return runs, out


def test_the_page_of_runs_with_their_data(reported):
    runs, out = reported
    page = Page(out.read_text())
    accessible(page)
    headings = [data for data in page.text if data in ("Queries", "Ranks", "Modality gap", "Left out")]
    assert {"Queries", "Ranks", "Modality gap"} <= set(headings) and "Left out" not in headings
    result = json.loads(Path(runs[0], "result.json").read_text())
    assert f"{result['i2t']['r10']:.1f}" in " ".join(svg["aria-label"] for svg in page.of("svg"))
    # The worst caption of the first run, with the answers of both, by the Matcher's own ranking.
    matcher = jax_itm.load(runs[0])
    split = open_split("scenes", matcher.config.data.data_dir, "test", "regions")
    retrieval = retrieve(matcher, split)
    caption = int(np.argmax(retrieval.ranks.t2i))
    query = text_query(retrieval, caption)
    texts = matcher.encode_texts([split.captions()[caption]])
    images = matcher.encode_records(split.image(k) for k in range(len(split)))
    ranking = matcher.rank(texts, images, 5)
    assert [answer.item for answer in query.answers[:5]] == ranking.indices[0].tolist()
    said = "".join(page.text)
    assert f"“{split.captions()[caption]}”" in said
    assert said.count(f"seed 0: rank {query.rank} of 24") >= 1 and "seed 1: rank" in said
    assert len(page.of("img")) > 60 and out.stat().st_size < 10_000_000


@pytest.fixture
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_the_page(reported, browser, scheme, width, tmp_path):
    page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(reported[1].as_uri())
    assert not messages
    assert [url for url in requests if not url.startswith("data:")] == [reported[1].as_uri()]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # only tables scroll sideways
    twice = "[...document.querySelectorAll('[id]')].map(x => x.id).filter((x, k, all) => all.indexOf(x) < k)"
    assert page.evaluate(twice) == []
    ink, back = (
        page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert contrast(ink, back) > 7
    tick = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert contrast(tick, back) > 7
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert pixels.std() > 15 and (pixels.mean() > 128) == (scheme == "light")


def contrast(one, other):
    """WCAG's contrast ratio of two CSS colours."""

    def luminance(colour):
        values = np.array([int(number) for number in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
