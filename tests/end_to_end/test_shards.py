"""The two layouts that are written in shards, as a user goes: prepare, train, resume, evaluate."""

import json

import pytest

from jax_itm.cli.main import main
from tests.helpers.shards import coco_rows, write_img2dataset, write_parquet

CONFIG = """
from jax_itm.config import default

def get_config():
    config = default("info_nce")
    config.data.modality, config.data.image_size, config.data.max_words = "pixels", 16, 8
    config.image.name, config.image.patch, config.image.width = "vit", 8, 16
    config.image.layers, config.image.heads = 1, 1
    config.text.name, config.image.pooling, config.text.pooling = "bow", "mean", "mean"
    config.dim, config.batch_size, config.duration = 16, 16, "6 steps"
    config.evaluate.every, config.evaluate.batch_size, config.log_every = "3 steps", 16, 1
    return config
"""


def write(layout, folder):
    if layout == "huggingface":
        return write_parquet(folder, coco_rows(48, 5), shards=3)
    for shard, split in enumerate(("train", "train", "val", "test")):
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_img2dataset(folder / split / str(shard), shards=1, each=12)
    return folder


@pytest.mark.parametrize("layout", ["huggingface", "webdataset"])
def test_prepared_trained_and_evaluated(layout, tmp_path, capsys):
    raw, data = write(layout, tmp_path / "raw"), str(tmp_path / "data")
    (tmp_path / "tiny.py").write_text(CONFIG)
    assert main(["prepare", layout, "--source", str(raw), "--data_dir", data]) == 0
    run = str(tmp_path / "run")
    train = ["train", "--config", str(tmp_path / "tiny.py"), "--workdir", run]
    train += [f"--config.data.name={layout}", f"--config.data.data_dir={data}"]
    assert main(train) == 0
    out = tmp_path / "result.json"
    assert main(["evaluate", "--workdir", run, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    images, captions = (12, 60) if layout == "huggingface" else (12, 12)
    assert (result["protocol"]["images"], result["protocol"]["captions"]) == (images, captions)
    assert result["protocol"]["split"] == "test" and result["protocol"]["step"] in (3, 6)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/info_nce" in line] == [1, 2, 3, 4, 5, 6]
    assert main(["describe", layout, "--data_dir", data, "--out", str(tmp_path / "card.png")]) == 0
    assert (tmp_path / "card.png").stat().st_size > 1000
