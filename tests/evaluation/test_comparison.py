"""Results are kept with the ranks of their queries, and compared query by query."""

import json
from pathlib import Path

import numpy as np
import pytest

from jax_itm.cli.main import main
from jax_itm.evaluation.comparison import compare
from jax_itm.evaluation.results import Queries, read, with_intervals, write
from jax_itm.metrics import Ranks, summary
from tests.helpers.errors import says

CAPTION_IMAGE = np.repeat(np.arange(40), 5)
PROTOCOL = {"dataset": "made", "split": "test", "images": 40, "captions": 200, "folds": 1}


def stored(path, seed: int, rate: float = 0.3, **protocol) -> str:
    """A made result of a run; a higher rate is a better one."""
    rng = np.random.default_rng(seed)
    ranks = Ranks(rng.geometric(rate, 40), rng.geometric(rate, 200))
    queries = Queries(ranks, CAPTION_IMAGE)
    write({"protocol": PROTOCOL | protocol, **summary(ranks), "queries": queries}, str(path))
    return str(path)


def test_a_result_comes_back_with_its_ranks(tmp_path):
    path = stored(tmp_path / "a.json", 0)
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["queries"] == "a.npz"
    back = read(path)
    assert back.protocol == PROTOCOL and summary(back.queries.ranks)["rsum"] == result["rsum"]
    np.testing.assert_array_equal(back.queries.caption_image, CAPTION_IMAGE)
    ends = with_intervals({"queries": back.queries})["intervals"]
    assert ends["rSum"][0] < result["rsum"] < ends["rSum"][1]


def test_two_settings_of_several_seeds(tmp_path, capsys):
    first = [stored(tmp_path / f"a{seed}.json", seed) for seed in (0, 1)]
    second = [stored(tmp_path / f"b{seed}.json", seed + 9, rate=0.5) for seed in (0, 1)]
    out = tmp_path / "differences.json"
    assert main(["compare", ",".join(first), ",".join(second), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    found = compare(first, second)
    rsum = lambda path: json.loads(Path(path).read_text())["rsum"]
    means = [np.mean([rsum(path) for path in side]) for side in (first, second)]
    np.testing.assert_allclose([found["rSum"].first, found["rSum"].second], means)
    assert found["rSum"].interval.low > 0 and found["rSum"].p < 0.01
    assert f"| rSum | {means[0]:.1f} | {means[1]:.1f} | {means[1] - means[0]:+.1f} |" in shown
    assert "and other seeds" in shown
    assert json.loads(out.read_text())["rSum"]["interval"] == list(found["rSum"].interval)


def test_what_cannot_be_compared(tmp_path, capsys):
    good = stored(tmp_path / "good.json", 0)
    cases = {
        f"{tmp_path}/none.json": "no such file; python -m jax_itm evaluate --out",
        stored(tmp_path / "other.json", 1, split="val"): "split 'val', but ..good.json has 'test'",
        stored(tmp_path / "folds.json", 1, folds=5): "folds 5, but .. has 1: not the same queries",
        damaged(stored(tmp_path / "bad.json", 1), "bad.npz", b"PK"): "bad.npz: damaged",
        damaged(stored(tmp_path / "text.json", 1), "text.json", b"{"): "text.json: not what jax_itm writes",
        old(stored(tmp_path / "old.json", 1)): "old.json: without the ranks of its queries; evaluate",
    }
    for path, line in cases.items():
        says(capsys, main(["compare", good, path]), *line.split(".."))
    says(capsys, main(["compare", good, good, "--out", f"{tmp_path}/no/x.json"]), "--out ", "no folder")


def damaged(path: str, name: str, data: bytes) -> str:
    (Path(path).parent / name).write_bytes(data)
    return path


def old(path: str) -> str:
    """As versions before this wrote it: without ranks."""
    result = json.loads(Path(path).read_text())
    del result["queries"]
    Path(path).write_text(json.dumps(result))
    return path


@pytest.mark.parametrize("name", ["i2t R@1", "rSum"])
def test_a_result_against_itself(tmp_path, name):
    path = stored(tmp_path / "a.json", 3)
    assert compare([path], [path])[name][2:] == ((0, 0), 1)
