"""SugarCrepe, Winoground and ARO in their own layouts, scored by a run, against its scores one by one."""

import json

import numpy as np
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.data.images import read_picture
from jax_itm.errors import UserError
from jax_itm.evaluation.compositional_sets import read_sets
from tests.helpers.errors import says
from tests.helpers.pictures import picture

TEXTS = ["a red dog jumps", "a dog jumps red", "the blue cat sits", "a fast bird", "slow green dog runs"]
ITEMS = 12


def texts(k):
    return TEXTS[k % 5], TEXTS[(k + 1 + k % 3) % 5]


def sugarcrepe(folder):
    for name in ("swap_obj", "add_att"):
        rows = {}
        for k in range(ITEMS):
            right, wrong = texts(k + len(name))
            rows[str(k)] = {"filename": f"{k}.jpg", "caption": right, "negative_caption": wrong}
        (folder / f"{name}.json").write_text(json.dumps(rows))


def winoground(folder):
    lines = []
    for k in range(ITEMS):
        first, second = texts(k)
        row = {"id": k, "image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1", "caption_0": first}
        lines.append(json.dumps(row | {"caption_1": second, "collapsed_tag": ["Object", "Both"][k % 2]}))
        for side in range(2):
            picture(100 + 2 * k + side).save(folder / "images" / f"ex_{k}_img_{side}.png")
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n")


def aro(folder):
    rows = []
    for k in range(ITEMS):
        right, wrong = texts(k)
        row = {"image_path": f"{k}.jpg", "true_caption": right, "false_caption": wrong}
        box = {"bbox_x": 1, "bbox_y": k % 4, "bbox_w": 9, "bbox_h": 7}
        rows.append(row | box | {"relation_name": ["on", "under", "on"][k % 3]})
    (folder / "visual_genome_relation.json").write_text(json.dumps(rows))
    pairs = [row | {"attributes": ["red", "wet"] if k < 2 else ["old", "big"]} for k, row in enumerate(rows)]
    (folder / "visual_genome_attribution.json").write_text(json.dumps(pairs * 3))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "sets"
    (place / "images").mkdir(parents=True)
    for k in range(ITEMS):
        picture(k).save(place / "images" / f"{k}.jpg")
    return place


def scored(picture_run, folder, tmp_path):
    out = tmp_path / "result.json"
    command = ["evaluate", "--workdir", str(picture_run.place / "run"), "--out", str(out)]
    assert main([*command, "--compositional", str(folder)]) == 0
    return json.loads(out.read_text())["compositional"]


def by_hand(picture_run, items):
    """The scores of each item's pictures with its texts, item by item."""
    matcher = jax_itm.load(str(picture_run.place / "run"))
    return np.stack(
        [matcher.score(matcher.encode_images(images), matcher.encode_texts(texts)) for images, texts in items]
    )


def test_sugarcrepe_is_a_choice_of_two_texts(picture_run, folder, tmp_path, capsys):
    sugarcrepe(folder)
    actual = scored(picture_run, folder, tmp_path)
    assert list(actual) == ["add_att", "swap_obj"]
    items = [([folder / "images" / f"{k}.jpg"], texts(k + 8)) for k in range(ITEMS)]
    scores = by_hand(picture_run, items)[:, 0]
    right = 100 * np.mean(scores[:, 0] > scores[:, 1])
    assert 0 < right < 100
    assert actual["swap_obj"] == {"items": ITEMS, "text": pytest.approx(right)}
    assert "| compositional | items |" in capsys.readouterr().out


def test_winoground_has_three_scores(picture_run, folder, tmp_path):
    winoground(folder)
    actual = scored(picture_run, folder, tmp_path)["winoground"]
    names = [[folder / "images" / f"ex_{k}_img_{side}.png" for side in range(2)] for k in range(ITEMS)]
    scores = by_hand(picture_run, [(images, texts(k)) for k, images in enumerate(names)])
    (a, b), (c, d) = np.moveaxis(scores, 0, 2)
    text, image = (a > b) & (d > c), (a > c) & (d > b)
    assert actual["text"] == pytest.approx(100 * np.mean(text))
    assert actual["image"] == pytest.approx(100 * np.mean(image))
    assert actual["group"] == pytest.approx(100 * np.mean(text & image))
    assert actual["labels"]["Both"]["text_choice"] == pytest.approx(
        50 * np.mean((a > b)[1::2].astype(int) + (d > c)[1::2])
    )
    assert "mean_over_labels" not in actual


def test_aro_sees_the_box_of_a_relation(picture_run, folder, tmp_path):
    aro(folder)
    actual = scored(picture_run, folder, tmp_path)
    crops = [read_picture(folder / "images" / f"{k}.jpg")[k % 4 : k % 4 + 7, 1:10] for k in range(ITEMS)]
    scores = by_hand(picture_run, [([crop], texts(k)) for k, crop in enumerate(crops)])[:, 0]
    right = scores[:, 0] > scores[:, 1]
    relation = actual["visual_genome_relation"]
    assert relation["text"] == pytest.approx(100 * np.mean(right))
    under = np.arange(ITEMS) % 3 == 1
    each = [100 * np.mean(right[under]), 100 * np.mean(right[~under])]
    assert relation["labels"]["under"] == {"items": 4, "text": pytest.approx(each[0])}
    assert relation["mean_over_labels"] == pytest.approx(np.mean(each))
    attribution = actual["visual_genome_attribution"]  # of 6 and 30 items: the first is too rare to count
    assert attribution["labels"]["red_wet"]["items"] == 6
    assert attribution["mean_over_labels"] == pytest.approx(100 * np.mean(right[2:]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"0": {"filename": "0.jpg", "caption": "a dog"}}', "a.json: 0: not an entry of SugarCr"),
        (
            "a.json",
            '{"0": {"filename": "0.jpg", "caption": "a", "negative_caption": ""}}',
            "empty caption",
        ),
        ("a.json", '{"0": {"filename": "../0.jpg", "caption": "a", "negative_caption": "b"}}', "must stay"),
        (
            "a.json",
            '{"0": {"filename": "no.jpg", "caption": "a", "negative_caption": "b"}}',
            "1 of 1 are",
        ),
        ("a.json", '{"0": 3}', "a.json: 0: not an entry"),
        ("a.json", "[]", "a.json: not a set of SugarCrepe, Winoground or ARO"),
        ("a.json", "{", "a.json:1: not JSON"),
        ("examples.jsonl", "{", "examples.jsonl:1: not JSON"),
        ("examples.jsonl", '{"image_0": "0"}', "examples.jsonl: line 1: not an entry"),
        (
            "visual_genome_relation.json",
            '[{"image_path": "0.jpg", "bbox_x": "one"}]',
            "relation.json: 0:",
        ),
        ("notes.txt", "", "no .json file of SugarCrepe or ARO, nor Winoground's examples.jsonl"),
    ],
)
def test_wrong_files_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_sets(folder)
    assert "\n" not in str(caught.value)


def test_a_box_outside_its_picture_is_an_error(picture_run, folder, capsys):
    aro(folder)
    (folder / "visual_genome_attribution.json").unlink()
    file = folder / "visual_genome_relation.json"
    file.write_text(file.read_text().replace('"bbox_x": 1', '"bbox_x": 99', 1))
    out = folder / "result.json"
    command = ["evaluate", "--workdir", str(picture_run.place / "run"), "--out", str(out)]
    says(capsys, main([*command, "--compositional", str(folder)]), "0.jpg: the box (99, 0, 108, 7) is empty")
    assert not out.exists()
