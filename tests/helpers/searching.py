"""A run on pictures without training: a tiny CLIP of random weights; and indexes by it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jax_itm.cli.main import main
from jax_itm.search.build import make_index
from jax_itm.search.index import SearchIndex
from jax_itm.serve.limits import LIMITS, Limits
from jax_itm.serve.run import listen, make_server
from tests.helpers.golden_encoders import clip_with
from tests.helpers.pictures import picture

CAPTIONS = ["a dog", "two cats", "a red ball on the grass", "rain", "a man rides a horse", "an empty street"]


def untrained_clip(folder: Path) -> str:
    """The workdir of a tiny CLIP."""
    clip_with(folder)
    run = str(folder / "run")
    assert main(["convert", "clip", str(folder), run]) == 0
    return run


def write_pictures(folder: Path, count: int) -> Path:
    """Pictures of noise, `000.png` and so on, in two folders."""
    for k in range(count):
        file = folder / "ab"[k % 2] / f"{k:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(k, (20 + k % 7, 12 + k % 5)).save(file)
    return folder


def make(place: Path, run: str, count: int = 12, score: str = "") -> Path:
    """An index of pictures and captions; returns its folder."""
    images = write_pictures(place / "pictures", count)
    captions = place / "captions.txt"
    captions.write_text("\n".join(CAPTIONS) + "\n")
    make_index(place / "index", run, images, captions, score)
    return place / "index"


@contextmanager
def served(index: SearchIndex, limits: Limits = LIMITS) -> Iterator[str]:
    """The address of a running server of an index."""
    server = make_server(index, "127.0.0.1", limits)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
