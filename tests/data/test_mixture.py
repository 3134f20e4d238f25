"""Several sets in one run: shares of every batch, no gap in any stream, validation on each."""

import itertools
import json

import numpy as np
import pytest

from jax_itm.cli.main import main
from jax_itm.data.batches import BatchOptions, ProcessShard, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.mixture import Mixture, mixed_rows
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from tests.data.test_shards import equal
from tests.end_to_end.test_shards import CONFIG
from tests.helpers.errors import says
from tests.helpers.shards import flickr_rows, jpeg, text, write_parquet

OPTIONS = BatchOptions(8, seed=3, max_words=8, max_regions=1, transform=ImageTransform((8, 8)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set in shards of 9 training images with 2 captions each, and one in memory of 5 pictures."""
    place = tmp_path_factory.mktemp("mixture")
    rows = flickr_rows(18, ("train", "val"), each=2)
    prepare("huggingface", place / "data", write_parquet(place / "raw", rows, shards=2))
    (place / "pictures").mkdir()
    lines = ["path,caption,split"]
    for k in range(100, 110):
        (place / "pictures" / f"{k}.jpg").write_bytes(jpeg(k))
        lines.append(f"{k}.jpg,{text(k, 0)},{'train' if k < 105 else 'val'}")
    (place / "pictures" / "captions.csv").write_text("\n".join(lines))
    prepare("folder", place / "data", place / "pictures")
    return place


def mixture(place, weights=(1.0, 3.0)):
    names = ("huggingface", "folder")
    return Mixture(tuple(open_split(name, place / "data", "train", "pixels") for name in names), weights)


def take(count, place, **how):
    several = mixture(place)
    tokenizer = Tokenizer.fit(several.splits[0].captions() + several.splits[1].captions())
    return list(itertools.islice(train_batches(several, tokenizer, OPTIONS, **how), count))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.0), (0.3, 0.3, 0.4), (1.0, 1.0, 9.5)])
def test_shares_are_exact_and_streams_have_no_gap(weights):
    batch_size, steps = 24, 200
    rows = [mixed_rows(weights, batch_size, 0, step) for step in range(steps)]
    for number, weight in enumerate(weights):
        positions = [np.sort(each.positions[each.sets == number]) for each in rows]
        stream = np.concatenate(positions)
        np.testing.assert_array_equal(stream, np.arange(len(stream)))
        counts = np.cumsum([len(each) for each in positions])
        share = weight / sum(weights) * batch_size * np.arange(1, steps + 1)
        assert np.abs(counts - share).max() < 1.1  # a row, and what rounding the weights adds
    assert not any(np.array_equal(rows[0].sets, each.sets) for each in rows[1:3]) or len(weights) == 1


def test_batches_hold_pairs_of_both_sets(place):
    batches = take(6, place)
    splits = mixture(place).splits
    tokenizer = Tokenizer.fit(splits[0].captions() + splits[1].captions())
    for batch in batches:
        assert np.bincount(batch["set_id"]).tolist() == [2, 6]
        for number, image, ids in zip(batch["set_id"], batch["image_id"], batch["text"]["ids"], strict=True):
            captions = splits[number].record(int(image - number * len(splits[0])))["captions"]
            assert ids.tolist() in tokenizer.encode(captions, 8)[0].tolist()
    images = np.concatenate([b["image_id"][b["set_id"] == 1] for b in batches])
    assert set(images) == set(range(9, 14))  # five images, numbered after the nine of the first set


def test_batches_are_a_function_of_seed_and_step(place):
    expected = take(6, place)
    equal(take(2, place, first_step=4), expected[4:])
    equal(take(2, place, workers=1), expected[:2])
    parts = [take(3, place, shard=ProcessShard(k, 2)) for k in range(2)]
    for step in range(3):
        for name in ("image_id", "set_id"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, expected[step][name])


def test_a_set_needs_a_row_of_each_batch(place):
    with pytest.raises(UserError, match=r"config\.data\.mixture: a set has 0\.079 rows of a batch of 8"):
        next(train_batches(mixture(place, (1.0, 0.01)), Tokenizer.fit(["a"]), OPTIONS))


def test_a_run_of_two_sets_validates_on_each(place, capsys):
    (place / "tiny.py").write_text(CONFIG)
    run, data = place / "run", place / "data"
    train = ["train", "--config", str(place / "tiny.py"), "--workdir", str(run)]
    train += ["--config.data.name=huggingface", f"--config.data.data_dir={data}"]
    says(
        capsys,
        main([*train, "--config.data.mixture=(('folder',),)"]),
        "config.data.mixture",
        "no (name, data_dir",
    )
    train += [f"--config.data.mixture=(('folder', {str(data)!r}, 2.0),)"]
    assert main(train) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if line["step"] == 6 and "val/rsum" in line]
    assert {"val/i2t/r1", "val/folder/i2t/r1", "val/folder/t2i/r10", "val/folder/rsum"} <= set(last)
    assert 0 <= last["val/folder/rsum"] <= 600
    assert main(["evaluate", "--workdir", str(run), "--data", "folder", "--split", "val"]) == 0
    says(capsys, main([*train[:-1], "--config.data.mixture=()"]), "config.data.mixture", "was started with")
