"""COCO from TFDS's own coco_captions, written here with its own features and splits."""

import io

import pytest
from tensorflow_datasets.object_detection.coco_captions import CocoCaptions

from jax_itm.data.images import read_picture
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import open_split
from jax_itm.errors import UserError
from tests.helpers.errors import refuses
from tests.helpers.pictures import picture


def example(number: int, captions: int, text: str):
    file = io.BytesIO()
    picture(number).save(file, "JPEG")
    return {
        "image": file.getvalue(),
        "image/filename": f"COCO_val2014_{number:012}.jpg",
        "image/id": number,
        "objects": [],
        "captions": [{"text": f"{text} {k} of {number}\n", "id": 10 * number + k} for k in range(captions)],
    }


def fake(home, file_format, text="Caption", captions=6):
    """What TFDS leaves of coco_captions: as its own, but for downloads and the examples."""

    class Fake(CocoCaptions, skip_registration=True):
        name = "coco_captions"  # pyright: ignore
        pkg_dir_path = None
        url_infos = None  # pyright: ignore

        def _split_generators(self, dl_manager):
            splits = {"train": range(2), "val": [5], "test": [6], "restval": [3]}
            return {split: self._generate_examples(numbers) for split, numbers in splits.items()}

        def _generate_examples(self, numbers):  # pyright: ignore
            self.info.features["objects"]["label"].names = [str(k) for k in range(80)]
            for number in numbers:
                yield number, example(number, captions, text)

    Fake(data_dir=str(home), config="2014", file_format=file_format).download_and_prepare()


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_coco_captions(tmp_path, monkeypatch, file_format):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    fake(tmp_path / "tfds", file_format)
    facts = prepare("coco", tmp_path / "data")
    assert facts["splits"] == {
        "train": {"images": 3, "captions": 18},
        "val": {"images": 1, "captions": 5},
        "test": {"images": 1, "captions": 5},
    }
    assert facts["kind"] == "karpathy"
    assert facts["notes"][1] == "train: 3 images, the published split has 113,287"
    train = open_split("coco", tmp_path / "data", "train", "pixels")
    assert train.captions()[-1] == "Caption 5 of 3"  # restval comes after train
    pixels = {train.picture(k).tobytes() for k in range(3)}
    assert pixels == {read_picture(example(number, 1, "")["image"]).tobytes() for number in (0, 1, 3)}
    with pytest.raises(UserError, match="was prepared from none; choose another"):
        prepare("coco", tmp_path / "data", tmp_path)


def test_coco_captions_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    refuses(
        tmp_path, "coco", None, "tfds has no coco_captions/2014 of TFDS: unpack http.*; then --source DIR"
    )
    fake(tmp_path / "tfds", "tfrecord", captions=0)
    refuses(tmp_path, "coco", None, r"1\.1\.0: train\[0\], COCO_val2014_.*: empty caption")
    for file in (tmp_path / "tfds").rglob("*coco_captions-train*"):
        file.write_bytes(b"nonsense")
    refuses(tmp_path, "coco", None, r"1\.1\.0: train cannot be read")
    for file in (tmp_path / "tfds").rglob("dataset_info.json"):
        file.write_text("{")
    refuses(tmp_path, "coco", None, r"1\.1\.0: not a readable coco_captions")
