"""Zero-shot classification of a folder of classes, against scores that are averaged by hand."""

import json

import numpy as np
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.errors import UserError
from jax_itm.evaluation.zero_shot import classify, read_classes
from tests.helpers.errors import says
from tests.helpers.pictures import picture

FOLDERS = ["bird", "blue_cat", "c3", "dog", "fast", "green", "red"]
NAMES = ["bird", "blue cat", "slow bird", "dog", "fast", "green", "red"]
EACH = 4


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "classes"
    for k, name in enumerate(FOLDERS):
        (place / name).mkdir(parents=True)
        for number in range(EACH):
            picture(50 * k + number).save(place / name / f"{number}.{'png' if number else 'JPG'}", "PNG")
        (place / name / "notes.txt").write_text("no picture")
    (place / "classes.json").write_text(json.dumps({"c3": "slow bird"}))
    return place


def expected(matcher, folder, templates):
    """CLIP's: the mean of a class's normalised embeddings, normalised."""
    means = [np.mean(np.asarray(matcher.encode_texts([t.format(n) for t in templates])), 0) for n in NAMES]
    texts = np.stack([mean / np.linalg.norm(mean) for mean in means])
    files = [file for name in FOLDERS for file in sorted((folder / name).iterdir()) if file.suffix != ".txt"]
    scores = np.asarray(matcher.encode_images(files)) @ texts.T
    order = np.argsort(-scores, axis=1)
    labels = np.repeat(np.arange(7), EACH)[:, None]
    return 100 * np.mean(order[:, :1] == labels), 100 * np.mean(np.any(order[:, :5] == labels, axis=1))


def test_the_mean_of_the_templates_embeddings(picture_run, folder, tmp_path, capsys):
    out = tmp_path / "result.json"
    command = ["evaluate", "--workdir", str(picture_run.place / "run"), "--out", str(out)]
    templates = ["a {} runs", "{} jumps fast", "the dog sits by {}"]
    assert main([*command, "--classes", str(folder), "--templates", *templates]) == 0
    actual = json.loads(out.read_text())["zero_shot"]
    assert (actual["images"], actual["classes"], actual["averaged"]) == (28, 7, "embeddings")
    assert actual["templates"] == templates
    top1, top5 = expected(jax_itm.load(str(picture_run.place / "run")), folder, templates)
    assert 0 < top5 < 100
    assert actual["top1"] == pytest.approx(top1) == actual["mean_per_class"]
    assert actual["top5"] == pytest.approx(top5)
    assert "| zero_shot |" in capsys.readouterr().out


def test_token_sets_average_their_scores(picture_run, folder, monkeypatch):
    """A method without embeddings: the class's score is the mean of its texts' scores."""
    matcher = jax_itm.load(str(picture_run.place / "run"))
    templates = ["a {} runs", "{} jumps fast"]
    encode, score = matcher.encode_texts, matcher.score
    monkeypatch.setattr(matcher, "encode_texts", lambda texts: (encode(texts),))
    monkeypatch.setattr(matcher, "score", lambda images, texts: score(images, texts[0]))
    actual = classify(matcher, read_classes(folder), templates)
    files = [file for name in FOLDERS for file in sorted((folder / name).iterdir()) if file.suffix != ".txt"]
    images = matcher.encode_images(files)
    scores = sum(score(images, encode([t.format(name) for name in NAMES])) for t in templates)
    labels = np.repeat(np.arange(7), EACH)
    assert actual["averaged"] == "scores"
    assert actual["top1"] == pytest.approx(100 * np.mean(scores.argmax(axis=1) == labels))


def test_what_is_wrong_is_named(picture_run, folder, tmp_path, capsys):
    command = ["evaluate", "--workdir", str(picture_run.place / "run"), "--out", str(tmp_path / "r.json")]
    says(capsys, main([*command, "--templates", "a {}"]), "--templates: only with --classes DIR")
    status = main([*command, "--classes", str(folder), "--templates", "a photo"])
    says(capsys, status, "--templates 'a photo': must have {} once")
    says(capsys, main([*command, "--classes", str(folder / "none")]), "none: no such directory")
    (folder / "dog" / "4.png").write_bytes(b"no picture")
    says(capsys, main([*command, "--classes", str(folder)]), "dog/4.png: not a readable image")
    (folder / "classes.json").write_text('{"c3": "dog"}')
    says(capsys, main([*command, "--classes", str(folder)]), "two classes are called 'dog'")
    (folder / "classes.json").write_text('{"c3": 3}')
    says(capsys, main([*command, "--classes", str(folder)]), "classes.json: c3: the name of a class is 3")
    assert not (tmp_path / "r.json").exists()
    with pytest.raises(UserError, match="a folder of pictures for each of at least two classes"):
        read_classes(folder / "dog")
