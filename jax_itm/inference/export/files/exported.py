"""An exported run: encodes and scores with jax, flatbuffers, numpy and tokenizers; pictures need pillow."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

CELLS = 2**22  # cosines held at once: 16 MiB
Inputs = Mapping[str, np.ndarray]


class Exported:
    """The programs, weights and constants of a folder that `python -m jax_itm export` wrote.

    Attributes:
        about: export.json: sizes, the preprocessing's constants, the names of the programs.
        weights: by name.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "export.json").read_text())
        self.weights = read_safetensors(self.folder / "weights.safetensors")
        self._programs = {name: self._program(name) for name in self.about["programs"]}

    def _program(self, name: str) -> Callable[..., Any]:
        data = bytearray((self.folder / f"{name}.stablehlo").read_bytes())
        return jax.jit(jax.export.deserialize(data).call)

    def encode_images(self, images: Inputs) -> Any:
        """A dual encoder's encodings of what `pictures` or `regions` returned, one row an image."""
        return self._in_batches(lambda rows: self._programs["image"](self.weights, rows), images)

    def encode_texts(self, texts: Inputs) -> Any:
        """A dual encoder's encodings of what `texts` returned, one row a caption."""
        return self._in_batches(lambda rows: self._programs["text"](self.weights, rows), texts)

    def score(self, images: Any, texts: Any) -> np.ndarray:
        """A dual encoder's scores (i, t) of all encoded images with all encoded texts. Higher is better."""
        program = self._programs["score"]
        if not isinstance(images, dict):
            return np.asarray(program(images, texts))
        # Token sets: every call holds images x texts x tokens x tokens cosines.
        columns = max(1, CELLS // max(1, images["mask"].size * texts["mask"].shape[1]))
        rows = lambda start: {name: array[start : start + columns] for name, array in texts.items()}
        starts = range(0, len(texts["mask"]), columns)
        return np.concatenate([np.asarray(program(images, rows(start))) for start in starts], axis=1)

    def score_pairs(self, images: Inputs, texts: Inputs) -> np.ndarray:
        """A cross-encoder's scores (k,) of row k's image with row k's caption."""
        return self._in_batches(lambda *rows: self._programs["pairs"](self.weights, *rows), images, texts)

    def score_all(self, images: Inputs, texts: Inputs) -> np.ndarray:
        """The scores (i, t) of all images with all captions, by either kind of model."""
        if "pairs" not in self.about["programs"]:
            return self.score(self.encode_images(images), self.encode_texts(texts))
        count = len(next(iter(images.values())))
        captions = len(texts["ids"])
        image, text = (index.ravel() for index in np.mgrid[:count, :captions])
        rows = lambda side, index: {name: array[index] for name, array in side.items()}
        return self.score_pairs(rows(images, image), rows(texts, text)).reshape(count, captions)

    def _in_batches(self, program: Callable[..., Any], *inputs: Inputs) -> Any:
        """In batches of one size, so that it is compiled once; the last row fills the last batch up."""
        count = len(jax.tree.leaves(inputs)[0])
        size = self.about["batch_size"]
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            result = program(*jax.tree.map(lambda x, rows=rows: x[rows], inputs))
            parts.append(jax.tree.map(lambda x, end=count - start: np.asarray(x)[:end], result))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def texts(self, captions: Sequence[str]) -> Inputs:
        """Captions as numbers: ids int32 (t, w), mask bool (t, w)."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        width = self.about["max_words"]
        ids = np.zeros((len(captions), width), np.int32)
        mask = np.zeros((len(captions), width), bool)
        for row, encoding in enumerate(tokenizer.encode_batch(list(captions), add_special_tokens=False)):
            tokens = [self.about["start_id"], *encoding.ids[: width - 2], self.about["end_id"]]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return {"ids": ids, "mask": mask}

    def pictures(self, paths: Sequence[str | Path]) -> Inputs:
        """Pictures of 8 bits a channel, resized and cropped as the run sees them: uint8 (i, h, v, 3)."""
        return {"pixels": np.stack([self._picture(path) for path in paths])}

    def _picture(self, path: str | Path) -> np.ndarray:
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(Image.open(path))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, (255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert("RGB")
        size = self.about["resize"]
        crop = self.about["crop"]
        if len(size) == 1:
            size = [int(size[0] * edge / min(image.size)) for edge in (image.height, image.width)]
        if size and size != [image.height, image.width]:
            image = image.resize(size[::-1], Image.Resampling(self.about["resample"]))
        if crop:
            spare = (image.height - crop[0], image.width - crop[1])
            top, left = (round(pixels / 2) if self.about["rounded"] else pixels // 2 for pixels in spare)
            image = image.crop((left, top, left + crop[1], top + crop[0]))
        return np.asarray(image)

    def regions(self, features: Sequence[np.ndarray], boxes: Sequence[np.ndarray] | None = None) -> Inputs:
        """Region features [(r, f), ..] and their boxes [(r, 4), ..], x1 y1 x2 y2 in [0, 1], padded.

        Raises:
            ValueError: the run was trained on boxes, too, and there are none.
        """
        if boxes is None and self.about["needs_boxes"]:
            raise ValueError("boxes: this run was trained on the boxes of the regions, too")
        shape = (len(features), self.about["max_regions"])
        inputs = {
            "regions": np.zeros((*shape, self.about["region_dim"]), np.float16),
            "boxes": np.zeros((*shape, 4), np.float32),
            "mask": np.zeros(shape, bool),
        }
        for row, one in enumerate(features):
            inputs["regions"][row, : len(one)] = one
            inputs["mask"][row, : len(one)] = True
            if boxes is not None:
                inputs["boxes"][row, : len(one)] = boxes[row]
        return inputs


def read_safetensors(path: Path) -> dict[str, jax.Array]:
    """The float32 arrays of a file: the length of a JSON header, the header, the numbers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        first, end = entry["data_offsets"]
        array = np.frombuffer(data[start + first : start + end], np.float32)
        arrays[name] = jax.numpy.asarray(array.reshape(entry["shape"]))
    return arrays
