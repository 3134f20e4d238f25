"""python -m jax_itm search: ranks images for a caption."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_itm.cli.options import count
from jax_itm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from jax_itm.inference.matcher import Matcher
    from jax_itm.types import PyTree

HELP = "rank pictures or regions for a caption"


class Gallery(NamedTuple):
    """Images to search in, as `Matcher.encode_images` takes them, and their names."""

    images: Any  # paths of pictures, or regions (n, r, f)
    boxes: "list[np.ndarray] | None"
    names: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--images", required=True, help="a directory of pictures, or a .npy file of regions")
    parser.add_argument("caption")
    parser.add_argument("--top", type=count, default=10, help="how many images to print (10)")
    parser.add_argument(
        "--first", type=int, default=0, help="score only this many, the best by the fast score, in full"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the images that match a caption best."""
    import jax_itm
    from jax_itm.data.sources.raw import caption

    text = caption(args.caption, "caption")
    gallery = _open_gallery(Path(args.images))
    matcher = jax_itm.load(args.workdir)
    images, gallery = _encode(matcher, gallery)
    order, scores = matcher.rank(matcher.encode_texts([text]), images, args.top, args.first)
    for index, score in zip(order[0], scores[0], strict=True):
        print(f"{score:7.4f}  {gallery.names[index]}")
    return 0


def _encode(matcher: "Matcher", gallery: Gallery) -> "tuple[PyTree, Gallery]":
    """The encoded images, and the gallery of those that could be read; the others are said.

    Raises:
        UserError: no picture can be read, or the images are not what the run was trained on.
    """
    from jax_itm.data.images import read_picture
    from jax_itm.progress import track

    if matcher.config.data.modality != "pixels" or not isinstance(gallery.images, list):
        return matcher.encode_images(gallery.images, gallery.boxes), gallery
    names = []
    errors = []

    def records() -> "Iterator[dict[str, np.ndarray]]":
        for path in gallery.images:
            try:
                yield {"pixels": read_picture(path, max_pixels=matcher.config.data.max_pixels)}
                names.append(str(path))
            except UserError as error:
                errors.append(str(error))

    try:
        images = matcher.encode_records(track(records(), len(gallery.names), "encoding images"))
    except UserError as error:
        raise UserError(errors[0] if errors and not names else str(error)) from error
    if errors:
        reasons = "; ".join(errors[:2]) + " .." * (len(errors) > 2)
        print(f"{len(errors):,} of {len(gallery.names):,} left out: {reasons}", file=sys.stderr)
    return images, Gallery(names, None, names)


def _open_gallery(path: Path) -> Gallery:
    """The images of a directory or a .npy file; UserError where there are none."""
    from jax_itm.data.images import IMAGE_SUFFIXES
    from jax_itm.data.sources.precomp import as_boxes, read_array

    if path.suffix == ".npy":
        regions = read_array(path)
        if regions.ndim != 3:
            raise UserError(f"--images {path}: shape {regions.shape}, must be (images, regions, features)")
        file = path.with_name("boxes.npy")
        boxes = [as_boxes(read_array(file), str(file))] * len(regions) if file.exists() else None
        gallery = Gallery(regions, boxes, [f"{path.name}[{k}]" for k in range(len(regions))])
    elif path.is_dir():
        files = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        pictures = sorted(file for file in files if file.is_file())
        gallery = Gallery(pictures, None, [str(file) for file in pictures])
    else:
        raise UserError(f"--images {path}: neither a directory of pictures nor a .npy file of regions")
    if not gallery.names:
        raise UserError(f"--images {path}: no pictures there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return gallery
