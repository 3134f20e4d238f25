"""Finds the role of each column of a parquet file, by its type and its name.

The names are those of the copies that people use: nlphuji/flickr30k and lmms-lab/flickr30k (image, caption:
list, sentids, split, img_id, filename), HuggingFaceM4/COCO (image, sentences: one a row, cocoid, split,
filename), lmms-lab/COCO-Caption (image, answer: list, id, file_name, coco_url), jxie/flickr8k (caption_0 ..
caption_4), and of exports of img2dataset and others.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jax_itm.errors import UserError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "picture", "image_path", "filepath", "path")
CAPTION_NAMES = ("sentences", "captions", "caption", "caption_0", "raw", "answer", "text", "txt", "sentence")
SPLIT_NAMES = ("split",)
KEY_NAMES = ("cocoid", "img_id", "imgid", "image_id", "filename", "file_name")
NAME_NAMES = ("filename", "file_name", "image_name")
COCO_NAMES = {"cocoid", "coco_url"}
RAW = "raw"  # of a struct of Karpathy's: the sentence as it was written
ROLES = ("image", "caption", "split", "key", "name")


class Columns(NamedTuple):
    """Which column is what; "" for none.

    Attributes:
        image: of pictures, as bytes, as a struct of bytes and a path, or as paths.
        captions: of captions: text, a list of texts, or structs with the text "raw".
        split: of the names of splits.
        key: equal in all rows of one picture.
        name: of the name of the picture.
        is_coco: whether the set is a copy of COCO.
    """

    image: str
    captions: tuple[str, ...]
    split: str
    key: str
    name: str
    is_coco: bool

    def names(self, with_images: bool) -> list[str]:
        """The columns to read."""
        image = (self.image,) if with_images else ()
        return list(dict.fromkeys(filter(None, (*image, *self.captions, self.split, self.key, self.name))))

    def said(self) -> str:
        """The columns in a line, as --columns takes them."""
        roles = {"image": self.image, "caption": "+".join(self.captions), "split": self.split}
        roles |= {"key": self.key, "name": self.name}
        return ",".join(f"{role}={name}" for role, name in roles.items() if name)


def find_columns(schema: Any, told: Mapping[str, str], where: str) -> Columns:  # a pyarrow.Schema
    """The columns of a file.

    Args:
        schema: of the file.
        told: the names that the user gave, by role.
        where: the file, for errors.

    Raises:
        UserError: a column that the user named is not there, or there are no pictures or no captions.
    """
    types = dict(zip(schema.names, schema.types, strict=True))
    for role, name in told.items():
        if name not in types:
            raise UserError(f"--columns {role}={name}: {where} has no such column, but {', '.join(types)}")
    image = told.get("image") or _first(types, IMAGE_NAMES, _holds_pictures) or _only_struct(types)
    text = told.get("caption") or _first(types, CAPTION_NAMES, _holds_captions)
    for role, name in (("image", image), ("caption", text)):
        if not name:
            raise UserError(
                f"{where}: no column of {role}s among {', '.join(types)}; name it with --columns {role}=NAME"
            )
    captions = (text,)
    if text == "caption_0":
        captions = tuple(f"caption_{k}" for k in range(len(types)) if f"caption_{k}" in types)
    return Columns(
        image,
        captions,
        told.get("split") or _first(types, SPLIT_NAMES, _is_text),
        told.get("key") or _first(types, KEY_NAMES, _is_key),
        told.get("name") or _first(types, NAME_NAMES, _is_text),
        bool(COCO_NAMES & types.keys()),
    )


def captions_of(value: Any) -> Iterator[Any]:
    """The captions in a cell: a text, a list of texts, or Karpathy's structs with the text "raw"."""
    if isinstance(value, list):
        for each in value:
            yield from captions_of(each)
    elif isinstance(value, dict):
        yield from captions_of(value.get(RAW))
    elif value is not None:
        yield value


def _first(types: Mapping[str, Any], names: tuple[str, ...], fits: Any) -> str:
    return next((name for name in names if name in types and fits(types[name])), "")


def _only_struct(types: Mapping[str, Any]) -> str:
    """The one column with Hugging Face's type of pictures, whatever its name."""
    names = [name for name, kind in types.items() if _is_picture_struct(kind)]
    return names[0] if len(names) == 1 else ""


def _is_picture_struct(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    is_binary = types.is_binary(kind) or types.is_large_binary(kind)
    return _is_picture_struct(kind) or is_binary or _is_text(kind)


def _holds_captions(kind: Any) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_captions(kind.value_type)
    return _is_text(kind) or (types.is_struct(kind) and kind.get_field_index(RAW) >= 0)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_key(kind: Any) -> bool:
    from pyarrow import types

    return _is_text(kind) or types.is_integer(kind)
