"""A study runs each trial once, chooses, goes on with the other seeds, and ends in a table."""

import json
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from jax_itm.cli.main import main
from jax_itm.errors import UserError
from jax_itm.lock import locked
from jax_itm.plots.runs import training_minutes
from jax_itm.study import Row, Search, Study, parse_numbers
from jax_itm.study import runner as study
from jax_itm.study.plan import Task, check
from jax_itm.study.run import trials_table
from tests.helpers.tiny_run import prepared

STUDY = """
from jax_itm.study import Row, Study

TINY = {{
    "data.data_dir": "{place}/data",
    "duration": "6 steps",
    "evaluate.every": "6 steps",
    "optimizer.warmup": "0 steps",
    "log_every": 1,
    "text.name": "bow",  # encoders that are quick to compile
    "text.pooling": "mean",
    "image.pooling": "mean",
}}

def get_study():
    rates = ({{"optimizer.lr": 1e-9}}, {{"optimizer.lr": 1e-2}})
    first = Row("first", "{place}/tiny.py:method=info_nce", rates, TINY)
    second = Row("second", "{place}/tiny.py:method={method}", rates[1:], TINY, base="first")
    return Study([first, second], "dev", (0, 1))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("study"), train=60, dev=20)


def results(place, row: str):
    """The results of the row's chosen runs."""
    lines = [json.loads(line) for line in (place / "out" / "runs.jsonl").read_text().splitlines()]
    first = [line for line in lines if line["row"] == row and line["seed"] == 0]
    trial = max(first, key=lambda line: line["rsum"])["trial"]
    return [line for line in lines if line["row"] == row and line["trial"] == trial]


def in_this_process(arguments, log, *_):
    """As `study._call`, without the seconds that a process needs to start."""
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        assert main(arguments[3:]) == 0
    return False


def test_a_study_from_its_first_run_to_its_table(place, capsys, monkeypatch):
    """Its first runs as processes, two at once; those that are left in this one."""
    write = lambda method: (place / "study.py").write_text(STUDY.format(place=place, method=method))
    call = lambda *more: main(["study", str(place / "study.py"), "--out", str(place / "out"), *more])
    write("unknown")  # the first row's runs are kept where another's cannot start
    assert call("--jobs", "2") == 2
    assert "second/0-0.log: train ended with status 2" in capsys.readouterr().err
    done = [json.loads(line) for line in (place / "out" / "runs.jsonl").read_text().splitlines()]
    assert [line["run"][:-2] for line in done if line["seed"] == 0] in (
        ["first/0", "first/1"],
        ["first/1", "first/0"],
    )
    best = max(done[:2], key=lambda line: line["rsum"])

    write("vsepp")
    with (place / "out" / "runs.jsonl").open("a") as file:
        file.write('{"run": "second/0-0", "row"')  # a crash while writing
    monkeypatch.setattr(study, "_call", in_this_process)
    monkeypatch.setattr(
        "jax_itm.distributed.watchdog.signal.signal", lambda *_: None
    )  # a thread cannot take signals
    assert call() == 0
    shown = capsys.readouterr().out
    assert "first (info_nce)" in shown and "second (vsepp)" in shown and "seed 0, 1" in shown
    assert f"| first | optimizer.lr {best['trial']['optimizer.lr']} (chosen) |" in shown
    assert (
        "minutes"
        in shown.splitlines()[
            shown.splitlines().index(next(line for line in shown.splitlines() if line.startswith("| run")))
        ]
    )
    assert (place / "out" / "table.png").stat().st_size > 10_000
    assert (place / "out" / "differences.png").stat().st_size > 5_000
    means = [np.mean([r["rsum"] for r in results(place, name)]) for name in ("first", "second")]
    assert f"| second | first | {means[0]:.1f} | {means[1]:.1f} | {means[1] - means[0]:+.1f} |" in shown
    assert "for other queries (bootstrap over images with their captions) and other seeds" in shown
    assert (place / "out" / "table.md").read_text() in shown

    monkeypatch.setattr(study, "_call", lambda *_: pytest.fail("a run that has its line ran again"))
    assert call() == 0
    capsys.readouterr()
    assert call("--rows", "second,first", "--seeds", "0") == 0
    shown = capsys.readouterr().out
    assert shown.index("second (vsepp)") < shown.index("first (info_nce)")  # in the order asked
    assert "seed 0," in shown and "seed 0, 1" not in shown
    with locked(str(place / "out"), "study"):
        assert call() == 2
    assert "another study runs there" in capsys.readouterr().err


def test_later_rows_fill_idle_cores_and_wait_for_what_they_need(tmp_path, monkeypatch):
    two = ({"x": 1}, {"x": 2})
    rows = [
        Row("a", "a.py", two),
        Row("b", "b.py:start={a}"),
        Row("c", "c.py"),
        Row("d", "d.py", rerank=("c",)),
    ]
    runner = study.Runner(Study(rows, "dev", (3, 4)), tmp_path, jobs=3)
    order, going, together = [], set(), []

    def one(task):
        order.append(task.key)
        going.add(task.key)
        together.append(len(going))
        time.sleep(0.2 if task.key == "a/0-3" else 0.02)
        going.remove(task.key)
        runner.done[task.key] = {"rsum": task.trial}

    monkeypatch.setattr(runner, "_one", one)
    runner.run(rows)
    assert max(together) == 3 and len(order) == len(set(order)) == 9
    assert order[:4] == ["a/0-3", "a/1-3", "c/0-3", "c/0-4"]  # the second trial ends long before the first
    before = lambda first, then: max(map(order.index, first)) < min(map(order.index, then))
    assert before(["c/0-3", "c/0-4"], ["d/0-3", "d/0-4"]) and before(["a/0-3", "a/1-4"], ["b/0-3", "b/0-4"])

    def fails(task):
        order.append(task.key)
        raise UserError(task.key)

    runner.done, order[:] = {}, []
    monkeypatch.setattr(runner, "_one", fails)
    with pytest.raises(UserError):
        runner.run(rows)
    assert order == ["a/0-3", "a/1-3", "c/0-3"]  # nothing more is started


@pytest.mark.parametrize("text", ["a", "0,0", "1,-2", "0.5"])
def test_seeds_are_numbers(text):
    with pytest.raises(UserError, match=f"--seeds {text}: must be different whole numbers"):
        parse_numbers("--seeds", text)


def test_a_row_may_start_from_and_rerank_earlier_ones(tmp_path):
    rows = [
        Row("a", "a.py"),
        Row("b", "b.py", ({"x": 1}, {"x": 2})),
        Row("c", "c.py:start={b},k=1", rerank=("a", "b"), top_k=7, first_weight=2, isd=True),
    ]
    runner = study.Runner(Study(rows, "dev", (3, 4)), tmp_path)
    scores = {"a/0-3": 5, "a/0-4": 7, "b/0-3": 1, "b/1-3": 4, "b/1-4": 9}
    runner.done = {key: {"rsum": value} for key, value in scores.items()}
    assert runner.workdirs(rows[1]) == [tmp_path / "b/1-3", tmp_path / "b/1-4"]
    train, evaluate = runner.commands(Task(rows[2], 0, 4))
    assert f"c.py:start={tmp_path}/b/1-4,k=1" in train and "--config.seed=4" in train
    words = " ".join(evaluate)
    best = f"--rerank_from {tmp_path}/b/1-4"  # means 6 and 6.5
    assert f"--isd --mode rerank {best} --top_k 7 --first_weight 2" in words
    del runner.done["b/1-4"]
    with pytest.raises(UserError, match="row 'b' has not ended; another row needs it"):
        runner.commands(Task(rows[2], 0, 3))
    again = Row("c", "c.py", rerank=("b", "a"))
    assert f"--rerank_from {tmp_path}/a/0-4" in " ".join(runner.commands(Task(again, 0, 4))[1])
    runner.done = {}
    with pytest.raises(UserError, match="row 'c' re-ranks b, a: none has ended"):
        runner.commands(Task(again, 0, 4))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Row("a", "a.py:start={b}"), Row("b", "b.py")], "row 'a' needs 'b', which is no earlier row"),
        ([Row("a", "a.py", rerank=("c",))], "row 'a' needs 'c'"),
        ([Row("a", "a.py"), Row("a", "b.py")], "row 'a': names are words, each of its own"),
        ([Row("../a", "a.py")], "names are words"),
    ],
)
def test_what_cannot_be_run_is_refused_first(rows, message):
    with pytest.raises(UserError, match=message):
        check(Study(rows, "dev"))


def test_unknown_rows_and_files(place, capsys):
    (place / "other.py").write_text(STUDY.format(place=place, method="vsepp"))
    assert main(["study", str(place / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err
    assert main(["study", str(place / "tiny.py")]) == 2
    assert "tiny.py: has no function get_study" in capsys.readouterr().err
    assert main(["study", str(place / "other.py"), "--out", str(place / "o"), "--rows", "third"]) == 2
    assert "--rows third: no such row; there are first, second" in capsys.readouterr().err


def test_drawn_trials_end_early_below_the_median(tmp_path, monkeypatch):
    """Runs that write their validations: the fifth and later are ended where they are below the median."""
    search = Search({"optimizer.lr": (1e-4, 1e-1), "dim": [64, 128]}, count=8)
    row = Row("a", "a.py", search)
    looks = {}

    def call(command, log, share, is_hopeless=lambda: False):
        fields = dict(word[9:].split("=") for word in command if word.startswith("--config."))
        workdir = Path(command[command.index("--workdir") + 1])
        if command[3] == "evaluate":
            (workdir / "result.json").write_text(
                json.dumps({"rsum": 300 * float(fields_of[workdir]["optimizer.lr"])})
            )
            return False
        fields_of[workdir] = fields
        workdir.mkdir(parents=True)
        for step in (10, 20, 30):
            line = {"step": step, "val/rsum": step * float(fields["optimizer.lr"])}
            with (workdir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            if is_hopeless():
                looks[workdir.name] = step
                return True
        return False

    fields_of = {}
    monkeypatch.setattr(study, "_call", call)
    runner = study.Runner(Study([row], "dev", (3, 4)), tmp_path)
    runner.run([row])
    rates = [runner.trial_fields(Task(row, trial, 3))["optimizer.lr"] for trial in range(8)]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates) and len(set(rates)) == 8
    expected, ended = {}, rates[:4]
    for trial, rate in enumerate(rates[4:], 4):
        if rate < np.median(ended):
            expected[f"{trial}-3"] = 10
        else:
            ended.append(rate)
    assert looks == expected and 1 <= len(expected) <= 3
    assert runner.chosen(row) == int(np.argmax(rates))
    table = trials_table(runner, [row])
    assert table.count("(ended early at step 10)") == len(expected) and table.count("(chosen)") == 1
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and sum("pruned" in line for line in lines) == len(expected)

    again = study.Runner(Study([row], "dev", (3, 4)), tmp_path)  # the same trials, and nothing left to run
    monkeypatch.setattr(study, "_call", lambda *_: pytest.fail("ran again"))
    again.run([row])
    assert [again.trial_fields(Task(row, trial, 3))["optimizer.lr"] for trial in range(8)] == rates
    wider = Row("a", "a.py", search._replace(fields={"optimizer.lr": (1e-4, 1.0)}))
    with pytest.raises(
        UserError, match=r"runs.jsonl: a/0-3 had .*, the study says .* now; choose another --out"
    ):
        study.Runner(Study([wider], "dev", (3, 4)), tmp_path)


def test_a_hopeless_run_is_ended_and_a_failed_one_said(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SECONDS_BETWEEN_LOOKS", 0.05)
    share = study.shares(1)[0]
    sleeps = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)", "train"]
    log = tmp_path / "log"
    assert study._call(sleeps, log, share, lambda: log.exists() and "begun" in log.read_text())
    fails = [sys.executable, "-c", "import sys; print('why'); sys.exit(3)", "train"]
    with pytest.raises(UserError, match="log: train ended with status 3: why"):
        study._call(fails, log, share)
    assert not study._call([sys.executable, "-c", "", "train"], log, share)


def test_runs_share_out_cores_and_gpus(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    two = study.shares(2, (4, 5, 6))
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in two] == ["4,6", "5"]
    assert all(share.cores <= set(cores) for share in two)
    assert study.shares(1)[0] == (frozenset(cores), {})
    shown = "os.environ['CUDA_VISIBLE_DEVICES'], len(os.sched_getaffinity(0))"
    script = f"import os, time; time.sleep(0.3); print({shown})"
    study._call([sys.executable, "-c", script, "train"], tmp_path / "log", two[1])
    assert (tmp_path / "log").read_text() == f"5 {len(two[1].cores)}\n"


def test_minutes_are_those_of_training_steps():
    lines = [{"step": 20, "train/step_seconds": 3.0}, {"step": 20, "val/rsum": 1.0}]
    assert training_minutes([*lines, {"step": 40, "train/step_seconds": 0.5}]) == pytest.approx(70 / 60)
