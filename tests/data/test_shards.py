"""Sets in shards: written once, merged, resumed; read in an order that the seed alone decides."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from jax_itm.data import shard_preparation, shard_writer
from jax_itm.data.batches import BatchOptions, ProcessShard, train_batches
from jax_itm.data.image_transforms import ImageTransform
from jax_itm.data.order import ShardOrder
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import VERSION, describe, open_split
from jax_itm.data.shard_preparation import ShardOptions
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from tests.helpers.shards import coco_rows, flickr_rows, text, write_img2dataset, write_parquet

OPTIONS = BatchOptions(8, seed=3, max_words=8, max_regions=1, transform=ImageTransform((8, 8)))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """27 images in 4 raw files, each in shards of at most 4 images, written by two processes."""
    folder = tmp_path_factory.mktemp("shards")
    raw = write_parquet(folder / "raw", flickr_rows(27, ("train",) * 8 + ("val",), each=3), shards=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "IMAGES_A_SHARD", 4)
        prepare("huggingface", folder / "data", raw)
    return folder / "data"


@pytest.fixture(scope="module")
def split(data_dir):
    return open_split("huggingface", data_dir, "train", "pixels")


def take(count, split, **how):
    tokenizer = Tokenizer.fit(split.first_captions(10))
    return list(itertools.islice(train_batches(split, tokenizer, OPTIONS, **how), count))


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def plain_order(sizes, seed, pool, epoch):
    """The captions of an epoch, one by one, as (shard, caption)."""
    shuffled = lambda n, *key: np.random.RandomState(
        np.random.MT19937(np.random.SeedSequence((seed, epoch, *key)))
    ).permutation(n)
    pools, start = {}, 0
    for shard in shuffled(len(sizes), 0):
        pools.setdefault(start // pool, []).extend((shard, c) for c in range(sizes[shard]))
        start += sizes[shard]
    for number, captions in enumerate(pools.values()):
        yield from (captions[k] for k in shuffled(len(captions), 1 + number))


@pytest.mark.parametrize("pool", [1, 10, 1000])
def test_order_is_that_of_a_plain_loop(pool):
    sizes = [3, 7, 1, 12, 5]
    expected = [place for epoch in range(3) for place in plain_order(sizes, 5, pool, epoch)]
    places = ShardOrder(np.array(sizes), 5, pool).at(np.arange(len(expected)))
    assert list(zip(*map(list, places), strict=True)) == expected
    for epoch in range(3):  # each caption once
        assert len(set(expected[epoch * 28 : (epoch + 1) * 28])) == 28


def test_a_pool_reads_few_shards():
    order = ShardOrder(np.full(100, 50), 0, pool=500)
    assert all(len(set(order.at(np.arange(k, k + 500)).shard)) == 10 for k in range(0, 5000, 500))


def test_order_is_frozen():
    places = ShardOrder(np.array([3, 7, 1, 12, 5]), 1, 10).at(np.arange(40, 46))
    # A run that resumes with a newer numpy must see the same order.
    assert places.shard.tolist() == [3, 3, 0, 3, 4, 4]
    assert places.caption.tolist() == [0, 6, 1, 4, 2, 3]


def test_index_and_records(split, data_dir):
    assert len(split.shards.shards) > 4 and len(split) == 24 and split.caption_count == 72
    facts = describe("huggingface", data_dir)
    assert facts["splits"] == {
        "train": {"images": 24, "captions": 72},
        "val": {"images": 3, "captions": 9},
    }
    assert facts["spreads"]["val"]["captions an image"] == [3, 3, 3]
    assert facts["spreads"]["train"]["width"] == [20, 20, 20] and not facts["tally"]
    records = [split.record(k) for k in range(24)]
    assert [c for record in records for c in record["captions"]] == split.captions()
    np.testing.assert_array_equal(split.caption_image, np.repeat(np.arange(24), 3))
    assert split.first(2).captions() == split.captions()[:6] and split.first(2).caption_count == 6
    assert "24 images, 72 captions" in split.identity()


def test_batches_hold_pairs_and_are_a_function_of_seed_and_step(split):
    expected = take(9, split)
    images = {c: k for k, c in zip(split.caption_image, split.captions(), strict=True)}
    ids, _ = Tokenizer.fit(split.first_captions(10)).encode(split.captions(), 8)
    for batch in expected:
        for image, row in zip(batch["image_id"], batch["text"]["ids"], strict=True):
            assert image in {split.caption_image[k] for k in np.flatnonzero((ids == row).all(1))}
    assert len(images) == 72
    epoch = np.concatenate([batch["image_id"] for batch in expected])  # 72 captions: one epoch
    np.testing.assert_array_equal(np.bincount(epoch), np.full(24, 3))
    equal(take(3, split, first_step=4), expected[4:7])
    equal(take(3, split, workers=2), expected[:3])
    parts = [take(3, split, shard=ProcessShard(k, 2)) for k in range(2)]
    for step in range(3):
        equal(jax.tree.map(lambda *rows: np.concatenate(rows), *[p[step] for p in parts]), expected[step])


def test_readers_write_the_same(tmp_path, data_dir):
    raw = data_dir.parent / "raw"
    for name, options in {"one": ShardOptions(), "two": ShardOptions(readers=2)}.items():
        prepare("huggingface", tmp_path / name, raw, shards=options)
    one, two = (sorted((tmp_path / k / "huggingface" / VERSION).iterdir()) for k in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("group, images", [("key", 12), ("bytes", 12), ("none", 36)])
def test_rows_of_one_picture_are_one_image(tmp_path, group, images):
    order = np.random.default_rng(0).permutation(36)
    raw = write_parquet(tmp_path / "raw", coco_rows(12, 3, order), shards=3)
    facts = prepare("huggingface", tmp_path / "data", raw, shards=ShardOptions(group=group))
    assert sum(counts["images"] for counts in facts["splits"].values()) == images
    assert sum(counts["captions"] for counts in facts["splits"].values()) == 36
    assert sorted(facts["splits"]) == ["test", "train", "val"]
    if images == 12:
        for name in facts["splits"]:
            opened = open_split("huggingface", tmp_path / "data", name, "pixels")
            for k in range(len(opened)):
                record = opened.record(k)
                picture = int(record["captions"][0].split()[-1])
                assert sorted(record["captions"]) == sorted(text(picture, c) for c in range(3))


def test_a_stopped_preparation_goes_on_with_the_files_that_it_had_not_finished(tmp_path, monkeypatch):
    raw = write_img2dataset(tmp_path / "raw", shards=4, each=6)
    expected = prepare("webdataset", tmp_path / "once", raw)["splits"]
    write, written = shard_writer.write_part, []

    def fails_at_the_third(job):
        if len(written) == 2:
            raise KeyboardInterrupt
        write(job)
        written.append(job.number)

    monkeypatch.setattr(shard_preparation, "write_part", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare("webdataset", tmp_path / "data", raw)
    assert not (tmp_path / "data" / "webdataset" / VERSION).exists()
    monkeypatch.setattr(shard_preparation, "write_part", lambda job: (write(job), written.append(job.number)))
    assert prepare("webdataset", tmp_path / "data", raw)["splits"] == expected
    assert written == [0, 1, 2, 3]
    assert prepare("webdataset", tmp_path / "data", raw)["reused"]
    (raw / "00003.tar").unlink()
    with pytest.raises(UserError, match="has changed since"):
        prepare("webdataset", tmp_path / "data", raw)


def test_a_set_without_validation_gets_some(tmp_path):
    raw = write_img2dataset(tmp_path / "raw", shards=2, each=60)
    facts = prepare("webdataset", tmp_path / "data", raw)
    counts = {name: split["images"] for name, split in facts["splits"].items()}
    assert sum(counts.values()) == 120 and 3 <= counts["val"] <= 24
    assert facts["notes"] == ["val: 10.00% of the images of train, by a digest of their names"]


def test_damage_is_one_line(tmp_path, data_dir):
    shutil.copytree(data_dir, tmp_path / "data")
    folder = tmp_path / "data" / "huggingface" / VERSION
    split = open_split("huggingface", tmp_path / "data", "train", "pixels")
    records = sorted(folder.glob("train*.array_record"))
    records[0].write_bytes(records[0].read_bytes()[:100])
    captions = sorted(folder.glob("train*.captions.json"))
    captions[1].write_text("[[1]]")
    with pytest.raises(UserError, match="huggingface/train: damaged; remove it and prepare it again"):
        split.record(0)
    with pytest.raises(UserError, match=rf"{captions[1].name}: damaged"):
        split.captions()
    index = json.loads((folder / "shards.json").read_text())
    index["splits"]["train"]["shards"][0][1] = 0
    (folder / "shards.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"shards\.json: damaged"):
        describe("huggingface", tmp_path / "data")
