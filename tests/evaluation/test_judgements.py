"""Agreement with human ratings: the files as they are published, and correlations of the run's own scores."""

import json

import numpy as np
import pytest
from scipy import stats

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from jax_itm.evaluation.judgements import read_judgements
from tests.helpers.errors import says


def write(folder, captions, lines, name="ExpertAnnotations.txt"):
    folder.mkdir(exist_ok=True)
    table = "".join(f"{identity}\t{text} .\n" for identity, text in captions.items())
    (folder / "Flickr8k.token.txt").write_text(table)
    (folder / name).write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return folder / name


def made(captions):
    """Expert's and CrowdFlower's lines about the images of the split `test`, some with own captions."""
    rng = np.random.default_rng(1)
    images = [f"{k}.jpg" for k in range(1, 24, 2)]
    pairs = [(image, str(rng.choice(list(captions)))) for image in images for _ in range(4)]
    pairs += [(image, f"{image}#3") for image in images]
    expert = [(*pair, *rng.integers(1, 5, 3)) for pair in pairs]
    votes = [(*pair, *rng.integers(1, 4, 2)) for pair in pairs]
    return expert, [(i, c, yes / (yes + no), yes, no) for i, c, yes, no in votes]


def test_correlations_with_both_sets(picture_run, tmp_path, capsys):
    place, captions = picture_run
    expert, crowd = made(captions)
    files = [
        write(tmp_path / "text", captions, expert),
        write(tmp_path / "text", captions, crowd, "CrowdFlowerAnnotations.txt"),
    ]
    command = ["evaluate", "--workdir", str(place / "run"), "--out", str(tmp_path / "result.json")]
    assert main([*command, "--judgements", *map(str, files)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())["judgements"]
    matcher = jax_itm.load(str(place / "run"))
    split = open_split("folder", place / "data", "test", "pixels")
    number = {split.image_name(k): k for k in range(len(split))}
    images = matcher.encode_records([split.image(number[line[0]]) for line in expert])
    texts = matcher.encode_texts([f"{captions[line[1]]} ." for line in expert])
    scores = np.diagonal(matcher.score(images, texts))
    is_other = np.array([not line[1].startswith(f"{line[0]}#") for line in expert])
    assert 12 <= np.sum(~is_other) < 24
    for part, rows in (("all", np.ones(len(expert), bool)), ("without_own", is_other)):
        numbers = result["flickr8k_expert"][part]
        ratings = np.array([line[2:] for line in expert])[rows].ravel()
        assert (numbers["pairs"], numbers["ratings"]) == (rows.sum(), 3 * rows.sum())
        expected = stats.kendalltau(np.repeat(scores[rows], 3), ratings, variant="c").statistic
        assert numbers["kendall_tau_c"] == pytest.approx(expected, abs=0.01)  # rounding may part ties
        numbers = result["flickr8k_crowdflower"][part]
        fractions = np.array([line[2] for line in crowd])[rows]
        assert numbers["ratings"] == rows.sum()
        expected = stats.spearmanr(scores[rows], fractions).statistic
        assert numbers["spearman"] == pytest.approx(expected, abs=0.01)
    assert "| judgements: flickr8k_expert |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ("1.jpg", "1.jpg#0", 5, 1, 1),
            "must be image, caption and three ratings of 1 to 4, or",
        ),
        (("1.jpg", "1.jpg#0", 1, 1), "must be image, caption"),
        (("1.jpg", "1.jpg#0", 0.9, 1, 1), "must be image, caption"),
        (("1.jpg", "1.jpg#0", 0, 0, 0), "must be image, caption"),
        (("1.jpg", "1.jpg#0", "nan", 1, 1), "must be image, caption"),
        (("1.jpg", "1.jpg#0", 0.5, 1, 1), "as all other lines"),  # CrowdFlower's among Expert's
        (("1.jpg", "1.jpg#9", 1, 2, 3), "no caption 1.jpg#9 in .*Flickr8k.token.txt"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    captions = {"1.jpg#0": "a dog"}
    path = write(tmp_path, captions, [("1.jpg", "1.jpg#0", 1, 2, 3), line])
    with pytest.raises(UserError, match=f"Annotations.txt:2: .*{message}"):
        read_judgements(path)


def test_what_is_missing_is_named(picture_run, tmp_path, capsys):
    place, captions = picture_run
    path = write(tmp_path, captions, [("2.jpg", "1.jpg#0", 1, 2, 3), ("1.jpg", "1.jpg#0", 1, 2, 3)])
    command = ["evaluate", "--workdir", str(place / "run"), "--out", str(tmp_path / "result.json")]
    status = main([*command, "--judgements", str(path)])
    says(capsys, status, "folder/test has no image 2.jpg (1 of 2 judged images are missing)")
    (tmp_path / "Flickr8k.token.txt").unlink()
    status = main([*command, "--judgements", str(path)])
    says(capsys, status, "Flickr8k.token.txt: cannot be read")
    assert not (tmp_path / "result.json").exists()
