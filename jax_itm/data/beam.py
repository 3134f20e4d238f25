"""Writing a large data set with Apache Beam: `pip install -e .[beam]`, `prepare --beam`.

The processes or machines of Beam's runner read, check, encode and write the records in parallel; all of them
must see the raw files and `data_dir` under the same paths. The result is the same as without Beam, except for
the number of files. Only the captions, and what a reader looks at first, are checked beforehand: a wrong
record ends the pipeline, and nothing remains of it.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam  # pyright: ignore[reportMissingImports]: an optional package
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]

from jax_itm.data.sources.raw import Raw, Read, Record
from jax_itm.data.tfds_builder import Builder, sizes_of, to_example
from jax_itm.errors import UserError

CHUNK = 64  # images that a worker reads at once

Chunk = tuple[int, int, int]  # the first image, the one after the last, and the number of the first caption


class BeamBuilder(Builder, skip_registration=True):
    """As `Builder`, but a pipeline produces the records."""

    def __init__(self, name: str, raw: Raw, data_dir: Path, version: str, origin: dict[str, str | None]):
        super().__init__(name, raw, data_dir, version, origin)
        self._metadata["captions"] = raw.captions

    def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:
        return {split: self._records(split, pipeline) for split in self._raw.splits}

    def _records(self, split: str, pipeline: Any) -> Any:
        chunks = list(_chunks(self._raw.captions[split]))
        records = (
            pipeline
            | f"{split}: chunks" >> apache_beam.Create(chunks)
            | f"{split}: distribute" >> apache_beam.Reshuffle()
            | f"{split}: read" >> apache_beam.FlatMap(_read, self._raw.splits[split])
        )
        _ = (
            records
            | f"{split}: sizes" >> apache_beam.Map(_sizes_of)
            | f"{split}: gather" >> apache_beam.combiners.ToList()
            | f"{split}: save" >> apache_beam.Map(_save, str(self._sizes_file(split)))
        )
        return records

    def _sizes_file(self, split: str) -> Path:
        return Path(self.data_path) / f"sizes-{split}.json"

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        for split in self._raw.splits:
            file = self._sizes_file(split)
            self.store_sizes(split, json.loads(file.read_text()))
            file.unlink()


def _chunks(captions: list[list[str]]) -> Iterator[Chunk]:
    first_caption = 0
    for start in range(0, len(captions), CHUNK):
        stop = min(start + CHUNK, len(captions))
        yield start, stop, first_caption
        first_caption += sum(map(len, captions[start:stop]))


def _read(chunk: Chunk, read: Read) -> Iterator[tuple[int, Record]]:
    start, stop, first_caption = chunk
    for image_id, record in enumerate(read(start, stop), start):
        yield image_id, to_example(record, image_id, first_caption)
        first_caption += len(record["captions"])


def _sizes_of(example: tuple[int, Record]) -> dict[str, int]:
    return sizes_of(example[1])


def _save(sizes: list[dict[str, int]], file: str) -> None:
    Path(file).write_text(json.dumps(sizes))


def download_config(options: dict[str, str]) -> tfds.download.DownloadConfig:
    """The form in which TFDS takes Beam's options; the runner is DirectRunner unless they name another."""
    switches = {"true": True, "false": False}
    parsed = {key: switches.get(value, value) for key, value in options.items()}
    return tfds.download.DownloadConfig(beam_options=PipelineOptions.from_dictionary(parsed))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what ends a pipeline into a UserError: runners report what a worker raised as a traceback."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip()
        match = re.search(r"UserError: (.+?)(?: \[while running|\n|\\n|$)", text)
        last = text.splitlines()[-1].split(" [while running")[0]
        raise UserError(match[1] if match else f"--beam: the pipeline failed ({last})") from error
