"""Tar files of pictures with captions: WebDataset's layout, and img2dataset's, which is one of its kind."""

import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jax_itm.data.image_transforms import MAX_PIXELS
from jax_itm.data.images import IMAGE_SUFFIXES
from jax_itm.data.sources.columns import CAPTION_NAMES, captions_of
from jax_itm.data.sources.parts import BadRow, Row, read_split, split_of_path
from jax_itm.data.sources.raw import Raw, caption, image_name, parse_json
from jax_itm.errors import UserError

PATTERN = re.compile(r"[{*?\[]")  # what makes a path a pattern of paths
SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT_SUFFIXES = {".txt", ".text", ".caption"}
MAX_TEXT = 2**22  # bytes of a member with captions
MAX_IMAGE = 2**28  # bytes of a picture
STATS = "_stats.json"  # what img2dataset writes beside each shard: 00000_stats.json
FAILED = {
    "failed_to_download": "pairs that img2dataset could not download",
    "failed_to_resize": "pairs that img2dataset could not resize",
}


class Member(NamedTuple):
    """A file in a tar: its suffix, its contents (None where it is too large or no file)."""

    suffix: str
    data: bytes | None


@dataclass(frozen=True)
class TarPart:
    """One tar file.

    Attributes:
        file: the file.
        split: of its rows.
        columns: "caption", "key", "name": which JSON field is what, where it is not found.
    """

    file: Path
    split: str
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def captions_kept(self) -> int:
        """All of them."""
        return 0

    def count(self) -> int:
        """The number of its rows, from the headers alone."""
        return sum(1 for _ in self._samples(reads=False))

    def rows(self, with_images: bool = True) -> Iterator[Row | BadRow]:
        """Its samples: consecutive members that have a name in common up to its first point.

        Raises:
            UserError: the file is damaged.
        """
        del with_images  # a tar is read from its beginning to its end
        for number, (key, members) in enumerate(self._samples()):
            where = f"{self.file.name}:{key}"
            try:
                yield self._row(number, key, members)
            except (UserError, ValueError) as error:
                yield BadRow(number, where, str(error).removeprefix(f"{where}: "))

    def _row(self, number: int, key: str, members: list[Member]) -> Row:
        where = f"{self.file.name}:{key}"
        images = [member for member in members if member.suffix in IMAGE_SUFFIXES]
        if len(images) != 1:
            raise UserError(f"{where}: no picture" if not images else f"{where}: {len(images)} pictures")
        if not images[0].data:
            raise UserError(f"{where}: its picture is empty, larger than {MAX_IMAGE:,} bytes, or no file")
        fields = self._json(members, where)
        names = dict(self.columns)
        texts = [caption(text, where) for text in self._captions(members, fields, names, where)]
        if not texts:
            raise UserError(f"{where}: no caption")
        name = image_name(_text(fields, names.get("name"), where) or key, where)
        return Row(
            number, where, name, texts, self.split, images[0].data, _text(fields, names.get("key"), where)
        )

    def _json(self, members: list[Member], where: str) -> Mapping[str, object]:
        """The JSON of a sample; empty where it has none."""
        for member in members:
            if member.suffix == ".json" and member.data is not None:
                fields = parse_json(member.data.decode("utf-8-sig"))
                if not isinstance(fields, dict):
                    raise UserError(f"{where}: its JSON is no table")
                return fields
        return {}

    def _captions(
        self, members: list[Member], fields: Mapping[str, object], names: Mapping[str, str], where: str
    ) -> list[object]:
        """The text of a sample or, where it has none, what its JSON has."""
        if name := names.get("caption"):
            if name not in fields:
                raise UserError(f"{where}: its JSON has no field {name!r}")
            return list(captions_of(fields[name]))
        texts = [m.data for m in members if m.suffix in TEXT_SUFFIXES and m.data is not None]
        if texts:
            return [text.decode("utf-8-sig") for text in texts]
        found = next((field for field in CAPTION_NAMES if fields.get(field)), "")
        return list(captions_of(fields[found])) if found else []

    def _samples(self, reads: bool = True) -> Iterator[tuple[str, list[Member]]]:
        count = 0
        try:
            with tarfile.open(self.file, "r|*" if self.file.suffix != ".tar" else "r:") as tar:
                entries = (_entry(tar, info, reads) for info in tar if not info.isdir())
                for key, group in itertools.groupby(entries, lambda entry: entry[0]):
                    yield key, [member for _, member in group]
                    count += 1
                    tar.members = []  # pyright: ignore  # tarfile keeps the header of every member
                _check_end(tar, self.file)
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            text = " ".join(str(error).split())
            raise UserError(
                f"{self.file}: damaged or cut after {count:,} samples ({text}); fetch it again, or move it"
                " away"
            ) from error


def read_webdataset(
    source: Path, max_pixels: int = MAX_PIXELS, columns: tuple[tuple[str, str], ...] = ()
) -> Raw:
    """A directory of tar files (in it or below it), one of them, or a pattern with braces and wildcards.

    A sample is a picture with a text (.txt) or JSON, whose field `caption` (or another of `CAPTION_NAMES`)
    has the caption or a list of them. The split is in the name of the file or its folder, as
    `split_of_path` finds it; otherwise it is "train". Nothing but the list of files, and the statistics of
    img2dataset beside them, is read here.

    Args:
        source: the directory, the file or the pattern, such as DIR/{00000..00099}.tar.
        max_pixels: not used here: pictures are checked when they are written.
        columns: "caption", "key", "name": which JSON field is what, where it is not found.

    Raises:
        UserError: there is no tar file, or a file that the pattern names is missing.
    """
    del max_pixels
    unknown = [role for role, _ in columns if role not in ("caption", "key", "name")]
    if unknown:
        raise UserError(f"--columns {unknown[0]}=..: a tar has the fields caption, key and name to choose")
    base, files = tar_files(source)
    parts = [TarPart(file, split_of_path(file, base), columns) for file in files]
    splits = sorted({part.split for part in parts})
    reads = {split: partial(read_split, parts, split) for split in splits}
    return Raw(reads, ("image",), tally=_failed(files), files=tuple(files), parts=tuple(parts))


def tar_files(source: Path) -> tuple[Path, list[Path]]:
    """The folder of a set and its tar files, in order.

    Raises:
        UserError: there are none, or one that a pattern names is missing.
    """
    if source.is_dir():
        base = source
        files = sorted(file for suffix in SUFFIXES for file in source.rglob(f"*{suffix}") if file.is_file())
    elif PATTERN.search(str(source)):
        base, files = _expanded(str(source))
    else:
        base = source.parent
        files = [source]
    if not files:
        raise UserError(f"{source}: no {', '.join(SUFFIXES)} file there")
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    return base, files


def source_name(source: str) -> str:
    """The absolute path, or pattern of paths."""
    return str(Path(source).absolute())


def _expanded(pattern: str) -> tuple[Path, list[Path]]:
    """The paths of a pattern: braces are expanded first, then wildcards."""
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise UserError(f"{pattern}: needs the package braceexpand: pip install -e .[webdataset]") from error
    try:
        paths = [Path(path) for path in braceexpand(pattern)]
    except ValueError as error:
        raise UserError(f"{pattern}: not a pattern ({error})") from error
    fixed = Path(pattern[: PATTERN.search(pattern).start()] + "x").parent  # type: ignore[union-attr]
    files = []
    for path in paths:
        is_wild = PATTERN.search(str(path))
        files += sorted(fixed.glob(str(path.relative_to(fixed)))) if is_wild else [path]
    return fixed, list(dict.fromkeys(files))


def _entry(tar: tarfile.TarFile, info: tarfile.TarInfo, reads: bool) -> tuple[str, Member]:
    """A member's key (its path up to the first point of its name), and the member."""
    folder, slash, name = info.name.rpartition("/")
    stem, point, suffix = name.partition(".")
    key = f"{folder}{slash}{stem}"
    last = f".{suffix.rpartition('.')[2].lower()}" if point else ""
    most = MAX_IMAGE if last in IMAGE_SUFFIXES else MAX_TEXT
    if not reads or not info.isreg() or info.size > most:
        return key, Member(last, None)
    file = tar.extractfile(info)
    data = file.read() if file else None
    if data is not None and len(data) != info.size:
        raise tarfile.ReadError(f"{info.name} is cut")
    return key, Member(last, data)


def _check_end(tar: tarfile.TarFile, file: Path) -> None:
    """Raises ReadError where a tar does not end with zeros: tarfile takes a cut one for its end."""
    if file.suffix == ".tar":
        with file.open("rb") as stream:
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no end of the archive")


def _text(fields: Mapping[str, object], name: str | None, where: str) -> str:
    """A field of a sample's JSON that the user named, as text; "" where none was named."""
    if name is None:
        return ""
    value = fields.get(name)
    if not isinstance(value, str | int):
        raise UserError(f"{where}: its JSON has no text or number {name!r}")
    return str(value)


def _failed(files: list[Path]) -> Counter[str]:
    """What img2dataset could not fetch, by its own statistics."""
    tally: Counter[str] = Counter()
    for file in files:
        stats = file.with_name(file.name.partition(".")[0] + STATS)
        if not stats.is_file() or stats.stat().st_size > MAX_TEXT:
            continue
        try:
            counts = json.loads(stats.read_bytes())
            failed = {text: int(counts[key]) for key, text in FAILED.items() if counts.get(key)}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{stats}: not the statistics of img2dataset ({error})") from error
        tally.update(failed)
    return tally
