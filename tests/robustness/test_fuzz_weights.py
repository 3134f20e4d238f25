"""Mutated files of others: weights, vocabularies, descriptions of encoders, prepared data sets, tokens."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from jax_itm.data import token_cache
from jax_itm.data.images import read_picture
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import describe, open_split
from jax_itm.data.sources.raw import read_table
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.plots.dataset_summary import format_summary
from jax_itm.pretrained.directory import read_description, read_encoder_weights
from jax_itm.pretrained.files import read_weights
from jax_itm.pretrained.hf import read_architecture
from jax_itm.pretrained.open_clip import CONFIG
from jax_itm.pretrained.preprocessor import read_preprocessor
from jax_itm.train.convert import convert_uniter
from tests.helpers.big_vision import linen_siglip
from tests.helpers.golden_encoders import GOLDENS, written
from tests.helpers.mutate import MUTATIONS, allow_user_error, mutated
from tests.helpers.pictures import picture
from tests.helpers.precomp import write_precomp
from tests.helpers.uniter_weights import PIECES, published

HEADER = 4000  # bytes of a .safetensors file that are mutated; the numbers after them may be anything
SEVERAL = '{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}'
PROCESSOR = (
    '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32,'
    ' "resample": 3, "rescale_factor": 0.004, "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}'
)


def weights_in_parts(folder: Path) -> None:
    for name in "ab":
        save_file({name: np.ones((2, 3), np.float32)}, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(SEVERAL)


def encoder(name: str, side: str) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    def write(folder: Path) -> None:
        written(name, folder)
        for other in ("vocab.txt", "model.safetensors"):
            (folder / other).unlink()

    return write, lambda folder: read_architecture(side, read_table(folder / "config.json"), "FILE")


def open_clip(folder: Path) -> None:
    with np.load(GOLDENS / "encoder_open_clip.npz") as file:
        (folder / CONFIG).write_text(str(file["config"]))


def read_open_clip(folder: Path) -> None:
    for side in ("image", "text"):
        read_architecture(side, read_description(folder), "FILE")
    read_processor(folder)


def big_vision(folder: Path) -> None:
    np.savez(folder / "siglip.npz", **{f"params/{name}": x for name, x in linen_siglip("siglip").items()})


def read_big_vision(folder: Path) -> None:
    for side in ("image", "text"):
        read_architecture(side, read_description(folder), "FILE")
    read_processor(folder)
    assert all(name for name in read_encoder_weights(folder))


def fitted_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(Tokenizer.fit(["a dog runs", "a log"], "wordpiece").to_json())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def read_words(folder: Path) -> None:
    ids, mask = Tokenizer.from_folder(folder).encode(["A dog's log", "😀 \u202e" * 99], 8)
    assert ids.shape == mask.shape == (2, 8) and (ids >= 0).all()


def tokens(folder: Path) -> None:
    with token_cache.token_writer(str(folder / "a")) as add:
        add(np.ones((5, 3), np.float16), np.array([2, 3]))


def read_tokens(folder: Path) -> None:
    tokens_of = token_cache.open_tokens(str(folder / "a"))
    for k in range(len(tokens_of or ())):
        assert tokens_of and tokens_of[k].shape[1] == tokens_of.width


def pictures(folder: Path) -> None:
    for kind in ("jpg", "png", "gif", "webp", "bmp", "tif"):
        picture(3, (9, 7)).save(folder / f"0.{kind}")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")


def read_pictures(folder: Path) -> None:
    for file in folder.iterdir():
        pixels = read_picture(file)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def processor_file(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(PROCESSOR)


def read_processor(folder: Path) -> None:
    fields = read_preprocessor(folder)
    assert np.isfinite([fields["scale"], *fields["mean"], *fields["std"]]).all() and all(fields["std"])
    assert min(fields["image_transform"]["crop"] or fields["image_transform"]["resize"]) > 0


def read_prepared(folder: Path) -> None:
    facts = describe("precomp", folder)
    assert format_summary(facts)
    for split in facts["splits"]:
        opened = open_split("precomp", folder, split, "regions")
        for k in range(len(opened)):
            assert opened.record(k)["regions"].dtype == np.float16


SETS = {
    "weights": (weights_in_parts, read_weights),
    "bert": encoder("bert", "text"),
    "clip": encoder("clip", "image"),
    "swin": encoder("swin", "image"),
    "dinov2": encoder("dinov2", "image"),
    "open_clip": (open_clip, read_open_clip),
    "big_vision": (big_vision, read_big_vision),
    "tokenizer": (fitted_tokenizer, read_words),
    "vocabulary": (vocabulary, read_words),
    "processor": (processor_file, read_processor),
    "tokens": (tokens, read_tokens),
    "pictures": (pictures, read_pictures),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Callable[[str], Path]:
    """A folder of the valid files of a set."""

    @functools.cache
    def folder(name: str) -> Path:
        write, read = SETS[name]
        directory = tmp_path_factory.mktemp(name)
        write(directory)
        read(directory)
        return directory

    return folder


def mutate_one(folder: Path, number: int, mutations: list[tuple]) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = files[number % len(files)]
    file.write_bytes(mutated(file.read_bytes(), mutations))


@pytest.mark.parametrize("name", SETS)
@given(number=st.integers(0, 99), mutations=MUTATIONS)
def test_sets(valid, name, number, mutations):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(valid(name), Path(temporary) / "copy"))
        mutate_one(folder, number, mutations)
        allow_user_error(lambda: SETS[name][1](folder))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    write_precomp(folder / "raw", images=2, each=2)
    prepare("precomp", folder / "data", folder / "raw")
    return folder / "data"


@settings(max_examples=max(10, settings().max_examples // 2))
@given(number=st.integers(0, 99), mutations=MUTATIONS)
def test_prepared_sets(prepared, number, mutations):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(prepared, Path(temporary) / "copy"))
        mutate_one(folder, number, mutations)
        allow_user_error(lambda: read_prepared(folder))


@pytest.fixture(scope="module")
def uniter(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("uniter") / "weights.safetensors"
    save_file(published(), file)
    return file.read_bytes()


@settings(max_examples=max(10, settings().max_examples // 4))
@given(mutations=MUTATIONS, words=st.booleans())
def test_convert_writes_all_or_nothing(uniter, mutations, words):
    vocab = ("\n".join(PIECES) + "\n").encode()
    with tempfile.TemporaryDirectory() as temporary:
        source, run = Path(temporary) / "weights.safetensors", Path(temporary) / "run"
        header = uniter[:HEADER] if words else mutated(uniter[:HEADER], mutations)
        source.write_bytes(header + uniter[HEADER:])
        (Path(temporary) / "vocab.txt").write_bytes(mutated(vocab, mutations) if words else vocab)
        try:
            convert_uniter(str(source), str(run), f"{temporary}/vocab.txt")
        except UserError:
            assert not run.exists()
        else:
            assert (run / "config.json").exists() and (run / "checkpoints" / "0").exists()
