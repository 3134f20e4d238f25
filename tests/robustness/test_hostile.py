"""Malicious data: no pickle is loaded, nothing expands beyond a limit, no path leads out of its folder."""

import io
import json
import os
import pickle
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.data import token_cache
from jax_itm.data.image_transforms import ImageTransform, image_transform_of, transform_image
from jax_itm.data.images import read_picture
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import describe, open_split
from jax_itm.data.sources import bottom_up, uniter
from jax_itm.data.sources.precomp import read_array
from jax_itm.data.sources.raw import read_json, read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.pretrained.files import read_state_dict, read_weights
from tests.helpers.bottom_up import SIX, tsv_row, write_tsv
from tests.helpers.entities import annotate, flickr30k
from tests.helpers.errors import refuses
from tests.helpers.pictures import picture, write_folder
from tests.helpers.precomp import write_precomp
from tests.helpers.uniter_features import FLICKR, entries, packed, write_captions, write_lmdb, zipped


class Trap:
    """An object whose unpickling creates a folder."""

    sprung = Path(tempfile.gettempdir()) / f"jax_itm_trap_{os.getpid()}"

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


def trap(kind: str) -> bytes:
    """The contents of a file of this kind with a trap in it."""
    file, objects = io.BytesIO(), np.array([Trap()], object)
    if kind == "npy":
        np.save(file, objects, allow_pickle=True)
    elif kind == "npz":
        np.savez(file, features=objects, norm_bb=objects, conf=objects, starts=objects, width=objects)
    elif kind == "torch":  # as `torch.save` writes: a pickle in a zip file
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": Trap()}, protocol=2))
            archive.writestr("archive/version", "3\n")
    else:
        pickle.dump(Trap(), file)
    return file.getvalue()


def uniter_npz(folder: Path, data: bytes) -> None:
    write_captions(folder, FLICKR)
    for name in FLICKR.values():
        (folder / name).write_bytes(data)
    prepare("uniter", folder / "data", folder)


def uniter_lmdb(folder: Path, data: bytes) -> None:
    write_lmdb(write_captions(folder, FLICKR) / "all", dict.fromkeys(FLICKR.values(), data))
    prepare("uniter", folder / "data", folder)


def precomp(folder: Path, data: bytes) -> None:
    write_precomp(folder)
    (folder / "boxes.npy").write_bytes(data)
    prepare("precomp", folder / "data", folder)


def kept_tokens(folder: Path, data: bytes) -> None:
    (folder / "a.npz").write_bytes(data)
    (folder / "a.tokens").write_bytes(b"")
    token_cache.open_tokens(str(folder / "a"))


def weights(folder: Path, data: bytes) -> None:
    pytest.importorskip("torch")
    (folder / "a.pt").write_bytes(data)
    read_state_dict(str(folder / "a.pt"))


def array(folder: Path, data: bytes) -> None:
    (folder / "a.npy").write_bytes(data)
    read_array(folder / "a.npy")


READ = {f.__name__: f for f in (array, precomp, uniter_npz, uniter_lmdb, kept_tokens, weights)}


@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize("kind", ["npy", "npz", "torch", "pickle"])
def test_no_pickle_is_loaded(tmp_path, reader, kind):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError):
        READ[reader](tmp_path / "raw", trap(kind))
    assert not Trap.sprung.exists()
    assert not (tmp_path / "raw" / "data").exists()


def test_an_old_pytorch_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(trap("torch"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.5.1+cpu"))
    with pytest.raises(UserError, match=r"a\.pt: PyTorch 2\.5\.1\+cpu may run code that the file holds"):
        read_state_dict(str(tmp_path / "a.pt"))


def test_the_trap_is_one():
    with pytest.raises(TypeError):  # what comes of an array without its objects
        np.load(io.BytesIO(trap("npy")), allow_pickle=True) + 1
    assert Trap.sprung.exists()
    Trap.sprung.rmdir()


def test_the_trap_in_msgpack(tmp_path):
    arrays = dict.fromkeys(("features", "norm_bb", "conf"), np.array([Trap()], object))
    with pytest.raises(UserError, match="not msgpack with arrays of msgpack_numpy"):
        uniter_lmdb(tmp_path / "raw", packed(arrays))


def png(width: int, height: int) -> bytes:
    """The beginning of a picture of one colour that says to be so large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 10_000)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_beyond_the_limit(tmp_path, capsys):
    for size in ((10_000, 10_000), (100_000, 100_000)):  # ours, and Pillow's
        with pytest.raises(UserError, match="pixels"):
            read_picture(png(*size))
    folder = write_folder(tmp_path / "raw")
    (folder / "a.csv").write_text("path,caption\n0.jpg,A\n")
    command = ["prepare", "folder", "--source", str(folder), "--data_dir", str(tmp_path / "data")]
    assert main([*command, "--max_pixels", "239"]) == 2  # 20 x 12
    message = r"0.jpg: 20 x 12 pixels, more than the 239 of config.data.max_pixels"
    assert message in capsys.readouterr().err and not (tmp_path / "data").exists()
    assert main([*command, "--max_pixels", "240"]) == 0


def test_a_thin_picture_is_not_resized_beyond_the_limit():
    with pytest.raises(UserError, match=r"1 x 60,000 pixels is too thin: \(224, 13440000\)"):
        transform_image(np.zeros((1, 60_000, 3), np.uint8), ImageTransform((224,), (224, 224)))
    config = default("vsepp")
    config.data.max_pixels = 100
    config.image.name = "pretrained"
    transform = {"resize": (4,), "crop": (), "resample": 2, "rounded": False}
    facts = Facts(image_architecture=ConfigDict({"image_transform": transform}))
    with pytest.raises(UserError, match=r"\(4, 40\) after resizing, more than config.data.max_pixels=100"):
        transform_image(np.zeros((2, 20, 3), np.uint8), image_transform_of(config, facts))


def test_pictures_that_are_programs(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(UserError, match="not a readable image"):
        read_picture(tmp_path / "a.eps")  # PostScript, which Pillow has Ghostscript run


def test_files_without_an_end(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "raw")
    with (folder / "images" / "0.jpg").open("ab") as file:
        file.truncate(2**40)  # none of it on the disk
    (folder / "a.csv").write_text("path,caption\n0.jpg,A\n")
    refuses(tmp_path, "folder", folder, r"0\.jpg: 1,099,511,627,776 bytes, too many")
    (folder / "a.csv").unlink()
    os.mkfifo(folder / "a.csv")
    refuses(tmp_path, "folder", folder, r"a\.csv: not a file")
    monkeypatch.setattr(bottom_up, "MAX_LINE", 100)
    folder = write_tsv(tmp_path / "tsv", [tsv_row("9", SIX)])
    refuses(tmp_path, "bottom_up_tsv", folder, r"tsv:1: a line of 100 bytes or more")


def test_arrays_beyond_the_limit(tmp_path, monkeypatch):
    write_captions(tmp_path / "raw", FLICKR)
    for name, arrays in entries(FLICKR.values()).items():
        (tmp_path / "raw" / name).write_bytes(zipped(arrays))
    monkeypatch.setattr(uniter, "MAX_BYTES", 300)
    refuses(tmp_path, "uniter", tmp_path / "raw", r"npz: .*features has 352 bytes, more than 300")


@pytest.mark.parametrize("shape", ["(2**60, 3, 8)", "(4, 3, -1)", "(4, 0, 8)", "(4, 3, 0)", "(" * 3000])
def test_absurd_shapes(tmp_path, shape):
    write_precomp(tmp_path / "raw")
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}}}\n".replace("2**60", str(2**60))
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 192
    (tmp_path / "raw" / "dev_ims.npy").write_bytes(data)
    refuses(tmp_path, "precomp", tmp_path / "raw", r"dev_ims\.npy: (not a readable|shape)")


def test_numbers_of_5000_digits(tmp_path):
    digits = "9" * 5000
    rows = [tsv_row("9", SIX, num_boxes=digits), tsv_row(digits, SIX), tsv_row("42", SIX)]
    refuses(tmp_path, "bottom_up_tsv", write_tsv(tmp_path / "raw", rows), "num_boxes is '9{20}', must be")
    (tmp_path / "a.json").write_text(f'{{"a": {digits}}}')
    with pytest.raises(UserError, match=r"a\.json: .*digits"):
        read_json(tmp_path / "a.json")


NESTED = ("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000)


@pytest.mark.parametrize("text", NESTED)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_deep_json(tmp_path, name, text):
    folder = write_folder(tmp_path / "raw")
    (folder / name).write_text(text)
    refuses(tmp_path, "folder", folder, rf"{name}(:1)?: not JSON.*nested too deep")
    with pytest.raises(UserError, match="nested too deep"):
        read_table(folder / name)


def test_cases_that_long_fuzzing_revealed(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "[" * 5000}}))
    with pytest.raises(UserError, match=r"index\.json: names \[+.*which is not beside it"):
        read_weights(tmp_path)
    description = json.loads(Tokenizer.fit(["a dog"], "wordpiece").to_json())
    description["model"]["unk_token"] = "[UOK]"
    with pytest.raises(UserError, match="tokenizer: it fails on a caption"):
        Tokenizer.from_json(json.dumps(description)).encode(["A cat"], 8)
    description["model"]["vocab"]["dog"] = 999
    assert len(Tokenizer.from_json(json.dumps(description))) == 1000
    write_precomp(tmp_path / "raw")
    prepare("precomp", tmp_path / "data", tmp_path / "raw")
    file = next((tmp_path / "data").rglob("metadata.json"))
    file.write_text(file.read_text().replace('"source"', '"rource"'))
    with pytest.raises(UserError, match="damaged; remove it and prepare it again"):
        describe("precomp", tmp_path / "data")


BILLION = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa">{}]><annotation>&a9;</annotation>"""
LAUGHS = BILLION.format("".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(9)))


def test_xml_entities(tmp_path):
    raw, entities = flickr30k(tmp_path / "raw"), annotate(tmp_path / "entities", "012")
    (entities / "Annotations" / "1.xml").write_text(LAUGHS)
    with pytest.raises(UserError, match=r"1\.xml: not an annotation .*DOCTYPE"):
        prepare("flickr30k", tmp_path / "data", raw, entities)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "images/../../up.jpg", "..", "images/../.."]
)
@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_paths_stay_inside(tmp_path, name, path):
    folder = write_folder(tmp_path / "raw")
    picture(0).save(tmp_path / "up.jpg")
    image = {"filename": path, "split": "train", "sentences": [{"raw": "A"}]}
    text = {"a.csv": f"path,caption\n{path},A\n", "a.json": json.dumps({"images": [image]})}[name]
    (folder / name).write_text(text)
    refuses(tmp_path, "folder", folder, "image paths must stay inside")


def test_links(tmp_path):
    """A link may lead to a picture elsewhere, as people keep them on other disks, but to nothing else."""
    folder = write_folder(tmp_path / "raw")
    picture(0).save(tmp_path / "up.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "up.jpg")
    (folder / "secret.jpg").symlink_to("/etc/passwd")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    for name, message in (("secret", "not a readable image"), ("loop", "no such image")):
        (folder / "a.csv").write_text(f"path,caption\n{name}.jpg,A\n")
        refuses(tmp_path, "folder", folder, rf"{name}\.jpg: {message}")
    (folder / "a.csv").write_text("path,caption\nlink.jpg,A\n")
    prepare("folder", tmp_path / "data", folder)
    pixels = open_split("folder", tmp_path / "data", "train", "pixels").picture(0)
    np.testing.assert_array_equal(pixels, Image.open(tmp_path / "up.jpg"))
