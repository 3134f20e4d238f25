"""The table says the numbers, the figure is drawn, and a missing file is one line."""

import json

import numpy as np
import pytest

from jax_itm.errors import UserError
from jax_itm.plots import figures
from jax_itm.plots.report import bar_label, report
from jax_itm.plots.tables import table

WAY = {"r1": 10.0, "r5": 20.0, "r10": 30.04, "medr": 7.0}
RESULT = {
    "protocol": {
        "dataset": "scenes",
        "split": "test",
        "images": 500,
        "captions": 2500,
        "folds": 1,
        "score": "cosine",
        "ties": "pessimistic",
        "precision": "encoders float32, scores float32",
        "preset": "dias",
        "run": "dias_scenes",
        "seed": 3,
        "step": 1250,
    },
    "i2t": WAY,
    "t2i": WAY | {"r1": 12.5},
    "rsum": 122.6,
}
BASELINE = {"name": "bag of words", "i2t": WAY, "t2i": WAY, "rsum": 120.1}


def test_table_has_the_numbers_the_baseline_and_the_protocol():
    lines = table([RESULT | {"baselines": [BASELINE]}]).splitlines()
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == ["dias_scenes (dias)", "10.0", "20.0", "30.0", "12.5", "20.0", "30.0", "122.6"]
    assert lines[3].startswith("| - bag of words")
    assert len({len(line) for line in lines[:4]}) == 1
    assert (
        "2,500 captions, one fold, cosine scores, ties pessimistic, encoders float32, scores float32, seed 3"
        in lines[-1]
    )


def test_a_mean_of_folds_says_of_how_many_images():
    folded = RESULT | {"protocol": RESULT["protocol"] | {"images": 1010, "folds": 5}}
    assert "1,010 images, 2,500 captions, mean of 5 folds of 202 images" in table([folded]).splitlines()[-1]


def test_small_recalls_keep_their_decimal():
    assert [bar_label(value) for value in (0.2, 1.6, 9.96, 10.4, 100.0)] == [
        "0.2",
        "1.6",
        "10.0",
        "10",
        "100",
    ]


def test_each_form_of_isd_is_a_column_if_a_result_has_it():
    with_isd = RESULT | {"isd": {"singular": 0.5, "isda": 0.25}}
    lines = table([with_isd, seeded(4, run="no maps")]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[-3:-1]] for line in lines[:4] if "--" not in line]
    assert cells == [["ISDa", "ISD"], ["0.250", "0.500"], ["", ""]]
    seeds = [seeded(k) | {"isd": {"singular": k / 10}} for k in (1, 2, 3)]
    assert "0.200 ± 0.100" in table(seeds) and "ISDa" not in table(seeds)


def test_seeds_share_a_row():
    other = RESULT | {"protocol": RESULT["protocol"] | {"seed": 4}, "rsum": 126.6}
    text = table([RESULT, other])
    assert text.count("dias_scenes") == 1 and "124.6 ± 2.8" in text and "seed 3, 4" in text
    named = RESULT | {"protocol": RESULT["protocol"] | {"run": "ablation"}}
    assert table([RESULT, named]).count("122.6") == 2


def run(folder, result=RESULT, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"seed": result["protocol"]["seed"]} | config))
    lines = [
        {"step": s, "train/loss": 1.0, "train/weighted/dim": -1.0 * s, "val/rsum": 100.0 + s}
        for s in range(5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(result))
    return str(folder)


def test_report_draws_and_returns_the_table(tmp_path):
    runs = [run(tmp_path / "a"), run(tmp_path / "b", RESULT | {"baselines": [BASELINE]})]
    text = report(runs, str(tmp_path / "figure.png"))
    assert text.count("dias_scenes (dias)") == 1 and "bag of words" in text
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "figure.png"]


def seeded(seed, **changes):
    return RESULT | {"protocol": RESULT["protocol"] | {"seed": seed} | changes}


def test_every_seed_is_a_curve_and_every_row_one_colour(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: draws.append(figure))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)
    names = [f"row {k}" for k in range(8)]  # more rows than colours
    runs = [
        run(tmp_path / f"{n}-{s}", seeded(s, run=n), name=n, start=f"start-{s}")
        for n in names
        for s in (0, 1)
    ]
    report(runs, str(tmp_path / "figure.png"))
    _, validation, recalls = draws[0].axes
    styles = [(line.get_color(), line.get_linestyle()) for line in validation.lines]
    assert len(styles) == 16 and len(set(styles)) == 8
    assert styles[::2] == styles[1::2]
    assert len(recalls.containers) == 8
    first, eighth = recalls.containers[0][0], recalls.containers[7][0]
    assert first.get_facecolor() == eighth.get_facecolor() and first.get_hatch() != eighth.get_hatch()
    assert [text.get_text() for text in draws[0].legends[0].texts] == [f"{n} (dias)" for n in names]


def test_bars_stand_around_their_tick_and_few_have_numbers(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: draws.append(figure))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)
    report([run(tmp_path / "a", RESULT | {"baselines": [BASELINE]})], str(tmp_path / "figure.png"))
    recalls = draws[0].axes[-1]
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bars in recalls.containers for bar in bars]
    first, after = edges[::6], edges[1::6]
    for tick, bars in ((0, first), (1, after)):
        low, high = min(edge for edge, _ in bars), max(edge for _, edge in bars)
        assert low + high == pytest.approx(2 * tick)
    assert "30" in [text.get_text() for text in recalls.texts] and len(recalls.texts) == 12


def test_isd_is_drawn_against_rsum(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: draws.append(figure))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)
    measured, plain = run(tmp_path / "a"), run(tmp_path / "b", seeded(4))
    lines = [{"step": k, "val/rsum": 100.0 + k, "val/isd/singular": 2.0 - k} for k in range(3)]
    (tmp_path / "a/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report([measured, plain], str(tmp_path / "figure.png"))
    against = draws[0].axes[2]
    assert against.get_xlabel() == "ISD"
    np.testing.assert_array_equal(against.lines[0].get_xydata(), [[2, 100], [1, 101], [0, 102]])
    assert len(against.lines) == 4  # the curve and three points: the other run has none
    lines = [{"step": 1, "val/rsum": 100.0, "val/isd/singular": 2.0, "val/isd/isda": 3.0}]
    (tmp_path / "a/metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    report([measured, plain], str(tmp_path / "figure.png"))
    assert draws[1].axes[2].get_title() == "ISDa against rSum, validation"
    assert draws[1].axes[2].lines[0].get_xdata() == [3.0]


@pytest.mark.parametrize(
    "values",
    [
        (1.6, 1.7),  # within the linear part of a symmetric logarithmic axis
        (22.0, 48.0),  # no power of ten between them
        (-48.0, -22.0),
        (20.0, 250.0),
        (20.0, 9000.0),
        (-0.009, 0.3),
        (0.001, 45.0),
        (-0.6, 0.3, 44.0),
        (-200.0, 3000.0),
        (5.0, 5.0),
        (),
    ],
)
def test_the_axis_of_losses_has_plain_numbers(values):
    figure = figures.new_figure(4, 4)
    axes = figure.subplots()
    axes.plot(values)
    figures.scale_values(axes, values)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    labels = [tick.label1.get_text().replace("\N{MINUS SIGN}", "-") for tick in ticks]
    assert 2 <= len(labels) <= 12
    np.testing.assert_allclose([float(label) for label in labels], [t.get_loc() for t in ticks], atol=1e-9)
    assert not any(tick.label1.get_text() for tick in axes.yaxis.get_minor_ticks())


def test_runs_of_one_name_that_differ_in_more_than_the_seed_are_told_apart(tmp_path):
    runs = [run(tmp_path / f"{s}", seeded(s), lr=lr) for s, lr in ((3, 0.1), (4, 0.2))]
    text = report(runs, str(tmp_path / "figure.png"))
    assert f"dias_scenes, {runs[0]} (dias)" in text and f"dias_scenes, {runs[1]} (dias)" in text
    assert "±" not in text


def test_the_figure_must_be_a_png(tmp_path):
    with pytest.raises(UserError, match=r"f\.pdf: the figure is a \.png"):
        report([run(tmp_path / "a")], str(tmp_path / "f.pdf"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", None, "jax_itm evaluate"),
        ("result.json", "{}", "not what jax_itm writes.*jax_itm evaluate"),
        ("result.json", '{"protocol": "full"}', "not what jax_itm writes"),
        ("result.json", json.dumps(seeded(3, images="many")), "not what jax_itm writes"),
        ("metrics.jsonl", None, "train the run first"),
        ("metrics.jsonl", "{oops", "not what jax_itm writes"),
        ("metrics.jsonl", "[1]", "not what jax_itm writes"),
        ("metrics.jsonl", '{"val/rsum": 1.0}', "not what jax_itm writes"),
        ("metrics.jsonl", "\udcff", "not what jax_itm writes"),
        ("config.json", None, "train the run first"),
        ("config.json", "[]", "not what jax_itm writes"),
    ],
)
def test_a_missing_or_broken_file_is_named(tmp_path, name, content, message):
    workdir = run(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    if content is not None:
        (tmp_path / "a" / name).write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=message) as error:
        report([workdir], str(tmp_path / "figure.png"))
    assert name in str(error.value) and not (tmp_path / "figure.png").exists()
