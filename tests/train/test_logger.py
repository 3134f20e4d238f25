"""Files that survive a resume, null for NaN, the pace of steps, and an alarm that rings once."""

import json
import sys

import numpy as np
import pytest

from jax_itm.config.load import default
from jax_itm.errors import UserError
from jax_itm.train import logger
from jax_itm.train.logger import Clock, CollapseAlarm, Logger


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(loss):
    return {"loss": loss, "step_seconds": 0.1, "weighted/triplet": 2.0}


def test_a_resumed_run_has_every_step_once(tmp_path, capsys):
    with Logger(str(tmp_path), 8) as log:
        for step in (2, 4, 6):
            log.train(step, scalars(1.0))
        log.evaluation(4, {"rsum": 300.0, "i2t/r1": 40.0, "t2i/r1": 30.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "tr')  # a crash in the middle of a line
    with Logger(str(tmp_path), 8, first_step=4) as log:
        for step in (6, 8):
            log.train(step, scalars(2.0))
    losses = [(line["step"], line.get("train/loss")) for line in lines(tmp_path)]
    assert losses == [(2, 1.0), (4, 1.0), (4, None), (6, 2.0), (8, 2.0)]
    assert lines(tmp_path)[2]["val/rsum"] == 300
    assert "validation rSum 300.0" in capsys.readouterr().out
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_holds_the_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with Logger(str(tmp_path), 2) as log:
        log.train(1, scalars(3.5))
    data = next((tmp_path / "tensorboard").glob("events*")).read_bytes()
    values = {}
    at = 0
    while at < len(data):  # records: length (8), crc (4), event, crc (4)
        size = int.from_bytes(data[at : at + 8], "little")
        for value in Event.FromString(data[at + 12 : at + 12 + size]).summary.value:
            values[value.tag] = value.simple_value
        at += size + 16
    assert values["train/loss"] == 3.5 and values["train/weighted/triplet"] == 2


def offline(**fields):
    config = default("vsepp")
    config.name = "tiny"
    config.log.update({"wandb": "project", "wandb_mode": "offline", **fields})
    return config


def leveldb_records(data: bytes):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log in blocks of 32 KiB."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's end holds no header
            at += 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            yield record
            record = b""


def test_weights_and_biases_keeps_the_scalars_offline(tmp_path):
    """Read back from its record, the run's directory alone; a resumed run has the same id."""
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    from wandb.proto import wandb_internal_pb2

    for first in (0, 2):
        with Logger(str(tmp_path), 4, first, config=offline()) as log:
            log.train(first + 1, scalars(3.5 + first))
            log.evaluation(first + 2, {"rsum": 300.0, "i2t/r1": 40.0, "t2i/r1": 30.0})
    assert wandb.run is None  # both are finished
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    own_id = (tmp_path / "wandb_id").read_text()
    assert files and {file.stem for file in files} == {f"run-{own_id}"}
    history = {}
    for file in files:
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            items = record.history.item
            row = {x.key or "/".join(x.nested_key): json.loads(x.value_json) for x in items}
            history.setdefault(row.get("_step"), {}).update(row)
    assert history[1]["train/loss"] == 3.5 and history[2]["val/rsum"] == 300
    config = offline()
    config.log.wandb = ""
    (tmp_path / "none").mkdir()
    with Logger(str(tmp_path / "none"), 4, config=config) as log:
        log.train(1, scalars(1.0))
    assert not (tmp_path / "none" / "wandb").exists()


def test_weights_and_biases_that_is_missing_or_refuses_is_said(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")

    def refuse(**_):
        raise ValueError("no API key\nat all")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", refuse)
        with pytest.raises(
            UserError, match=r"config\.log\.wandb=project: no API key at all; log in by"
        ) as error:
            Logger(str(tmp_path), 4, config=offline(wandb_mode="online"))
        assert "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UserError, match=r"needs the package wandb \(pip install -e \.\[wandb\]\)"):
            Logger(str(tmp_path), 4, config=offline())


def test_a_value_that_is_not_finite_is_null(tmp_path):
    with Logger(str(tmp_path), 1) as log:
        log.train(1, scalars(np.nan))
    assert lines(tmp_path)[0]["train/loss"] is None


def test_more_than_a_day_may_be_left(tmp_path, capsys):
    with Logger(str(tmp_path), 2161) as log:
        log._start -= 60  # a minute for the first step
        log.train(1, scalars(1.0))
    assert "step 1/2161, loss 1, 100 ms/step, 1 day, 12:0" in capsys.readouterr().out


def test_another_process_writes_nothing(tmp_path, capsys):
    with Logger(str(tmp_path), 1, is_main=False) as log:
        log.train(1, scalars(1.0))
        log.message("hello")
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_the_alarm_rings_once_on_the_plateau_and_not_beside_it():
    alarm = CollapseAlarm(0.2, patience=3)
    assert not any(alarm.update(0.22, 0.01) for _ in range(9))
    assert not any(alarm.update(0.2, 0.5) for _ in range(9))  # near negatives of healthy embeddings
    warnings = [alarm.update(0.2001, 0.01) for _ in range(9)]
    assert [k for k, text in enumerate(warnings) if text] == [2]
    assert "config.optimizer.lr" in warnings[2]
    assert not any(CollapseAlarm(0.0).update(0.0, 0.0) for _ in range(20))


def test_the_clock_separates_steps_from_waiting_for_data(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(logger.time, "perf_counter", lambda: now[0])

    def batches():
        while True:
            now[0] += 3.0
            yield {}

    def step():
        clock.next(source)
        now[0] += 1.0

    clock = Clock(4)
    source = batches()
    step()
    step()
    assert clock.read(6) == (4.0, 0.75)
    now[0] += 100
    clock.start(6)  # an evaluation
    step()
    assert clock.read(7) == (4.0, 0.75)
