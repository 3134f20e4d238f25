"""Writing a large data set with Apache Beam: `pip install -e .[beam]`, `prepare --beam`.

The records are read, checked, encoded and written in parallel, by the processes or machines of Beam's
runner; all of them must see the raw files and `data_dir` under the same paths. What is written is the
same as without Beam, but for the number of files. Nothing is checked beforehand except captions and what
the reader looks at first; a wrong record ends the pipeline, and nothing is left of it.
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
from jax_itm.data.tfds_builder import Builder, measured, numbered
from jax_itm.errors import UserError

CHUNK = 64  # images that a worker reads in one go


class BeamBuilder(Builder, skip_registration=True):
    """As `Builder`, but its records come out of a pipeline."""

    def __init__(self, name: str, raw: Raw, data_dir: Path, version: str, facts: dict[str, Any]):
        super().__init__(name, raw, data_dir, version, facts)
        self._metadata["captions"] = raw.captions

    def _split_generators(self, dl_manager, pipeline):
        return {split: self._records(split, pipeline) for split in self._raw.splits}

    def _records(self, split: str, pipeline: Any) -> Any:
        chunks = list(_chunks(self._raw.captions[split]))
        records = (
            pipeline
            | f"{split}: chunks" >> apache_beam.Create(chunks)
            | f"{split}: share out" >> apache_beam.Reshuffle()
            | f"{split}: read" >> apache_beam.FlatMap(_read, self._raw.splits[split])
        )
        _ = (
            records
            | f"{split}: measure" >> apache_beam.Map(_measure)
            | f"{split}: gather" >> apache_beam.combiners.ToList()
            | f"{split}: keep" >> apache_beam.Map(_keep, str(self._sizes(split)))
        )
        return records

    def _sizes(self, split: str) -> Path:
        return Path(self.data_path) / f"sizes-{split}.json"

    def _process_pipeline_result(self, pipeline_result) -> None:
        for split in self._raw.splits:
            self.keep_sizes(split, json.loads(self._sizes(split).read_text()))
            self._sizes(split).unlink()


def _chunks(captions: list[list[str]]) -> Iterator[tuple[int, int, int]]:
    """The first image, the one after the last, and the number of the first caption."""
    first = 0
    for start in range(0, len(captions), CHUNK):
        stop = min(start + CHUNK, len(captions))
        yield start, stop, first
        first += sum(map(len, captions[start:stop]))


def _read(chunk: tuple[int, int, int], read: Read) -> Iterator[tuple[int, Record]]:
    start, stop, first = chunk
    for image_id, record in enumerate(read(start, stop), start):
        yield image_id, numbered(record, image_id, first)
        first += len(record["captions"])


def _measure(example: tuple[int, Record]) -> dict[str, int]:
    return measured(example[1])


def _keep(sizes: list[dict[str, int]], file: str) -> None:
    Path(file).write_text(json.dumps(sizes))


def download_config(options: dict[str, str]) -> tfds.download.DownloadConfig:
    """What TFDS takes Beam's options by; the runner is DirectRunner where they name none."""
    switches = {"true": True, "false": False}
    given = {key: switches.get(value, value) for key, value in options.items()}
    return tfds.download.DownloadConfig(beam_options=PipelineOptions.from_dictionary(given))


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Makes a UserError of what ends a pipeline: runners give what a worker raised as a traceback."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip()
        found = re.search(r"UserError: (.+?)(?: \[while running|\n|\\n|$)", text)
        last = text.splitlines()[-1].split(" [while running")[0]
        raise UserError(found[1] if found else f"--beam: the pipeline failed ({last})") from error
