"""An index finds what the Matcher ranks, follows its folder, and survives interruptions."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

import jax_itm
from jax_itm.errors import UserError
from jax_itm.search.build import make_index
from jax_itm.search.index import SearchIndex
from jax_itm.search.store import FILE, Store
from tests.helpers.pictures import picture, replace_unnoticed, truncated_jpeg
from tests.helpers.searching import CAPTIONS, make, untrained_clip, write_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return untrained_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module", params=["cosine", "maxmean"])
def place(request, run, tmp_path_factory):
    """A folder with an index, and the score by which it was made."""
    folder = tmp_path_factory.mktemp(request.param)
    make(folder, run, score=request.param)
    return folder, request.param


def expected(place, run):
    """The index's pictures, the scores of all of them with all captions, and the pictures' vectors."""
    folder, score = place
    files = sorted((folder / "pictures").rglob("*.png"))
    matcher = jax_itm.load(run, score=score)
    images, texts = matcher.encode_images(files), matcher.encode_texts(CAPTIONS)
    vectors = np.asarray(images.pooled if score == "maxmean" else images)
    names = [file.relative_to(folder / "pictures").as_posix() for file in files]
    return names, matcher.score(images, texts), vectors


def is_ranking(hits, names, scores):
    """Whether hits are the best of `names` by `scores`, in order, but for scores that are equal to 1e-5."""
    found = [scores[names.index(hit.name)] for hit in hits]
    np.testing.assert_allclose([hit.score for hit in hits], found, atol=1e-5)
    np.testing.assert_allclose(found, np.sort(scores)[::-1][: len(hits)], atol=1e-5)


def test_the_index_ranks_as_the_matcher_does(place, run):
    names, scores, vectors = expected(place, run)
    index = SearchIndex(place[0] / "index")
    assert index.is_complete and index.has_tokens == (place[1] == "maxmean")
    for k, text in enumerate(CAPTIONS):
        is_ranking(index.pictures_for_text(text, 5), names, scores[:, k])
    for k, name in enumerate(names[:4]):
        pixels = index.pixels(place[0] / "pictures" / name)
        is_ranking(index.captions_for_image(pixels, 4), CAPTIONS, scores[k])
        hits = index.pictures_for_image(pixels, 4)
        assert hits[0].name == name and hits[0].score == pytest.approx(1, abs=1e-5)
        is_ranking(hits, names, vectors @ vectors[k])
        others = index.pictures_for_picture(hits[0].id, 3)
        assert [hit.name for hit in others] == [hit.name for hit in hits[1:]]
        is_ranking(index.captions_for_picture(hits[0].id, 6), CAPTIONS, scores[k])


def test_a_first_pass_scores_only_the_best_by_their_vectors(run, tmp_path):
    folder = make(tmp_path, run, score="maxmean")
    matcher = jax_itm.load(run, score="maxmean")
    files = sorted((tmp_path / "pictures").rglob("*.png"))
    images, texts = matcher.encode_images(files), matcher.encode_texts(CAPTIONS)
    order, scores = matcher.rank(texts, images, k=3, first=5)
    index = SearchIndex(folder, first=5)
    for k, text in enumerate(CAPTIONS):
        hits = index.pictures_for_text(text, 3)
        np.testing.assert_allclose([hit.score for hit in hits], scores[k], atol=1e-5)
        assert len(index.pictures_for_text(text, 8)) == 8  # never fewer than are asked for
    assert order.shape == (6, 3)


def test_an_index_follows_its_folder(run, tmp_path):
    images = write_pictures(tmp_path / "pictures", 6)
    (images / "cut.jpg").write_bytes(truncated_jpeg())
    first = make_index(tmp_path / "index", run, images)
    assert (first.added, first.removed, first.kept) == (6, 0, 0)
    [reason] = first.unreadable
    assert "cut.jpg: not a readable image" in reason
    picture(50).save(images / "a" / "new.png")
    (images / "b" / "001.png").unlink()
    picture(51, (40, 30)).save(images / "a" / "002.png")  # changed
    picture(52).save(images / "cut.jpg")  # mended
    second = make_index(tmp_path / "index", run, images)
    assert (second.added, second.removed, second.kept, second.unreadable) == (3, 2, 4, [])
    third = make_index(tmp_path / "index", run, images)
    assert (third.added, third.removed, third.kept) == (0, 0, 7)
    fresh = make_index(tmp_path / "fresh", run, images)
    assert fresh.added == 7
    hits = [SearchIndex(tmp_path / name).pictures_for_text("a dog", 9) for name in ("index", "fresh")]
    updated, anew = ({hit.name: hit.score for hit in some} for some in hits)
    assert updated == pytest.approx(anew, abs=1e-6)


def test_a_picture_of_equal_size_and_date_is_noticed_and_a_touched_one_is_kept(run, tmp_path):
    images = write_pictures(tmp_path / "pictures", 4)
    make_index(tmp_path / "index", run, images)
    before = Store(tmp_path / "index").digests()
    replace_unnoticed(images / "a" / "002.png")
    (images / "b" / "001.png").touch()
    (images / "b" / "003.png").chmod(0o600)
    changes = make_index(tmp_path / "index", run, images)
    assert (changes.added, changes.removed, changes.kept) == (1, 1, 3)
    after = Store(tmp_path / "index").digests()
    assert {name for name in before if before[name] != after[name]} == {"a/002.png"}
    changes = make_index(tmp_path / "index", run, images)
    assert (changes.added, changes.removed, changes.kept) == (0, 0, 4)


def test_captions_follow_their_file(run, tmp_path):
    folder = make(tmp_path, run, count=2)
    table = tmp_path / "new.csv"
    table.write_text("path,caption\nx.png,a dog\nx.png,a whale\ny.png,a whale\n")
    assert make_index(folder, run, tmp_path / "pictures").captions == len(CAPTIONS)  # none given: as before
    assert make_index(folder, run, tmp_path / "pictures", table).captions == 2
    assert Store(folder).captions() == ["a dog", "a whale"]


def test_a_killed_index_resumes(run, tmp_path):
    images = write_pictures(tmp_path / "pictures", 200)
    command = [
        "-m",
        "jax_itm",
        "index",
        "--workdir",
        run,
        "--images",
        str(images),
        "--out",
        str(tmp_path / "i"),
    ]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and pictures_in(tmp_path / "i") == 0:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = pictures_in(tmp_path / "i")
    assert before
    changes = make_index(tmp_path / "i", run, images)
    assert (changes.kept, changes.added) == (before, 200 - before)
    names = [hit.name for hit in SearchIndex(tmp_path / "i").pictures_for_text("a dog", 300)]
    assert len(names) == len(set(names)) == 200


def pictures_in(folder) -> int:
    try:
        with sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT COUNT(*) FROM pictures").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_what_cannot_be_indexed_is_refused_and_leaves_nothing(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "cut.jpg").write_bytes(truncated_jpeg())
    for images, message in [("none", "not a directory"), ("empty", "no pictures there"), ("cut", "cut.jpg")]:
        with pytest.raises(UserError, match=message):
            make_index(tmp_path / "index", run, tmp_path / images)
        assert not (tmp_path / "index").exists()
    images = write_pictures(tmp_path / "pictures", 2)
    with pytest.raises(UserError, match="no checkpoint there"):
        make_index(tmp_path / "index", str(tmp_path), images)
    assert not (tmp_path / "index").exists()
    make_index(tmp_path / "index", run, images)
    with pytest.raises(UserError, match=r"an index of the pictures in .*pictures; give another --out"):
        make_index(tmp_path / "index", run, write_pictures(tmp_path / "others", 2))
    with pytest.raises(UserError, match="by another run or score"):
        make_index(tmp_path / "index", run, images, score="maxmean")


def test_a_damaged_or_missing_index_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no index there; make one"):
        SearchIndex(tmp_path)
    folder = make(tmp_path, run, count=2)
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(b"SQLite" + data[6:100] + b"\xff" * 5000)
    with pytest.raises(UserError, match=r"index\.sqlite: cannot be used"):
        SearchIndex(folder)
    (folder / FILE).write_bytes(data)
    shutil.copytree(run, tmp_path / "moved")
    assert len(SearchIndex(folder, str(tmp_path / "moved")).pictures_for_text("a dog", 9)) == 2


def test_a_name_that_is_not_utf8_is_left_out(run, tmp_path):
    images = write_pictures(tmp_path / "pictures", 2)
    try:
        shutil.copy(images / "a" / "000.png", os.fsencode(images) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    for _ in range(2):
        changes = make_index(tmp_path / "index", run, images)
        assert changes.unreadable == [f"{images}/\\xff.png: the name is not UTF-8"]


def test_real_pictures_and_their_captions(run, real_data, tmp_path):
    source = real_data / "flickr8k"
    images = tmp_path / "pictures"
    images.mkdir()
    for file in sorted((source / "images").iterdir())[:24]:
        (images / file.name).symlink_to(file)
    table = json.loads((source / "dataset_flickr8k.json").read_text())
    table["images"] = table["images"][:60]
    (tmp_path / "captions.json").write_text(json.dumps(table))
    changes = make_index(tmp_path / "index", run, images, tmp_path / "captions.json")
    assert changes.added == 24 and changes.unreadable == [] and 250 < changes.captions <= 300
    index = SearchIndex(tmp_path / "index")
    pixels = index.pixels(next(images.iterdir()))
    assert len(index.pictures_for_text("a dog runs through the snow", 99)) == 24
    assert index.pictures_for_image(pixels, 1)[0].name == next(images.iterdir()).name
    texts = [hit.name for hit in index.captions_for_image(pixels, 5)]
    scores = index.matcher.score(index.matcher.encode_pixels(pixels[None]), index.matcher.encode_texts(texts))
    assert list(scores[0]) == sorted(scores[0], reverse=True)
