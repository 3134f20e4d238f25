"""python -m jax_itm search: ranks pictures or regions for a caption, or an index's items for a picture."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_itm.cli.options import count
from jax_itm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from jax_itm.inference.matcher import Matcher
    from jax_itm.search.index import Hit, SearchIndex
    from jax_itm.types import PyTree

HELP = "find pictures or regions for a caption; with an index, also pictures or captions for a picture"


class Gallery(NamedTuple):
    """Images to search in, as `Matcher.encode_images` takes them, and their names."""

    images: Any  # paths of pictures, or regions (n, r, f)
    boxes: "list[np.ndarray] | None"
    names: list[str]


class Result(NamedTuple):
    """What was found: a picture, regions or a caption.

    Attributes:
        score: higher is better.
        kind: "path" or "caption".
        name: the path or the caption.
        picture: reads the picture, uint8 (h, v, 3), where it is one.
    """

    score: float
    kind: str
    name: str
    picture: "Callable[[], np.ndarray] | None" = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--workdir", help="the run's directory; with --index, only needed if the run was moved"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--images", help="a directory of pictures, or a .npy file of regions")
    place.add_argument("--index", help="the directory of an index that `index` built")
    parser.add_argument("caption", nargs="?", help="what to search for")
    parser.add_argument("--image", help="search an index with this picture instead of a caption")
    parser.add_argument(
        "--to", choices=("images", "captions"), default="images", help="what to find with --image (images)"
    )
    parser.add_argument("--top", type=count, default=10, help="how many results to print (10)")
    parser.add_argument(
        "--first",
        type=int,
        help="score in full only this many, the best by the fast score (0: all; default with an index: 256)",
    )
    parser.add_argument("--sheet", help="also draw the results, to this .png")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints what matches best."""
    _check(args)
    results = _search_index(args) if args.index else _search_folder(args)
    if args.json:
        query = {"image": args.image} if args.image else {"caption": args.caption}
        rows = [{"score": result.score, result.kind: result.name} for result in results]
        print(json.dumps({"query": query, "results": rows}, ensure_ascii=False))
    else:
        for result in results:
            print(f"{result.score:7.4f}  {result.name}")
    if args.sheet:
        _draw(results, args.image or args.caption, args.sheet)
    return 0


def _check(args: argparse.Namespace) -> None:
    """UserError where the options do not fit each other."""
    from jax_itm.plots.figures import check_png
    from jax_itm.storage import check_writable

    if (args.caption is None) == (args.image is None):
        raise UserError("search: give a caption, or --image FILE; one of them")
    if args.image and not args.index:
        raise UserError("--image: searches an index; make one with `index`, and name it with --index")
    if args.to == "captions" and not args.image:
        raise UserError("--to captions: needs --image FILE")
    if args.images and not args.workdir:
        raise UserError("--images: needs the run, --workdir RUN")
    if args.sheet and args.to == "captions":
        raise UserError("--sheet: draws pictures, and --to captions finds none")
    if args.sheet:
        check_png(args.sheet, "--sheet")
        check_writable(args.sheet, "--sheet")


def _draw(results: list[Result], title: str, out: str) -> None:
    from jax_itm.plots.search_sheet import draw_results

    pictures = [result.picture() for result in results if result.picture]
    if not pictures:
        raise UserError(f"--sheet {out}: no pictures to draw")
    labels = [f"{result.score:.4f}  {Path(result.name).name}" for result in results]
    draw_results(title, pictures, labels, out)


def _search_index(args: argparse.Namespace) -> list[Result]:
    from jax_itm.search.index import FIRST, SearchIndex

    first = FIRST if args.first is None else args.first
    index = SearchIndex(args.index, args.workdir or "", first)
    if not index.is_complete:
        print(f"{args.index}: unfinished; run `python -m jax_itm index` to its end", file=sys.stderr)
    if args.image is None:
        return [_of_index(index, hit) for hit in index.pictures_for_text(args.caption, args.top)]
    pixels = index.pixels(Path(args.image))
    if args.to == "images":
        return [_of_index(index, hit) for hit in index.pictures_for_image(pixels, args.top)]
    captions = index.captions_for_image(pixels, args.top)
    if not captions:
        raise UserError(f"{args.index}: has no captions; make it with --captions FILE")
    return [Result(hit.score, "caption", hit.name) for hit in captions]


def _of_index(index: "SearchIndex", hit: "Hit") -> Result:
    from jax_itm.data.images import read_picture

    picture = lambda: read_picture(index.store.thumbnail(hit.id))
    return Result(hit.score, "path", str(index.images / hit.name), picture)


def _search_folder(args: argparse.Namespace) -> list[Result]:
    import jax_itm
    from jax_itm.data.images import read_picture
    from jax_itm.data.sources.raw import caption

    text = caption(args.caption, "caption")
    gallery = _open_gallery(Path(args.images))
    matcher = jax_itm.load(args.workdir)
    images, gallery = _encode(matcher, gallery)
    order, scores = matcher.rank(matcher.encode_texts([text]), images, args.top, args.first or 0)
    results = []
    for index, score in zip(order[0], scores[0], strict=True):
        file = gallery.images[index] if isinstance(gallery.images, list) else None
        picture = (
            (lambda file=file: read_picture(file, max_pixels=matcher.config.data.max_pixels))
            if file
            else None
        )
        results.append(Result(float(score), "path", gallery.names[index], picture))
    return results


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
    from jax_itm.data.images import IMAGE_SUFFIXES, picture_files
    from jax_itm.data.sources.precomp import as_boxes, read_array

    if path.suffix == ".npy":
        regions = read_array(path)
        if regions.ndim != 3:
            raise UserError(f"--images {path}: shape {regions.shape}, must be (images, regions, features)")
        file = path.with_name("boxes.npy")
        boxes = [as_boxes(read_array(file), str(file))] * len(regions) if file.exists() else None
        gallery = Gallery(regions, boxes, [f"{path.name}[{k}]" for k in range(len(regions))])
    elif path.is_dir():
        pictures = picture_files(path)
        gallery = Gallery(pictures, None, [str(file) for file in pictures])
    else:
        raise UserError(f"--images {path}: neither a directory of pictures nor a .npy file of regions")
    if not gallery.names:
        raise UserError(f"--images {path}: no pictures there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return gallery
