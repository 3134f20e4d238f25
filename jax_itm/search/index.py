"""An index opened with the run that made it: pictures for a caption, captions and pictures for a picture."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_itm.data.image_transforms import ImageTransform, image_transform_of, transform_image
from jax_itm.data.images import read_picture
from jax_itm.data.sources.raw import caption
from jax_itm.errors import UserError
from jax_itm.inference.matcher import Matcher, load
from jax_itm.losses.token_similarity import TokenSet
from jax_itm.methods.scores import MaxMean
from jax_itm.search.approximate import EXACT_UP_TO, open_approximate
from jax_itm.search.encodings import fingerprint, to_items, token_sets
from jax_itm.search.nearest import ExactNearest, Nearest, Neighbours
from jax_itm.search.store import Store
from jax_itm.types import PyTree

FIRST = 256  # items that are scored by their tokens, the best by their vectors


class Hit(NamedTuple):
    """An item that was found.

    Attributes:
        id: in the index.
        score: of the run; between pictures, the cosine of their vectors.
        name: the path of a picture below the folder, or the text of a caption.
    """

    id: int
    score: float
    name: str


class SearchIndex:
    """Searches an index. Encodings of pictures do not change, so that only the query is encoded.

    Methods that score by token sets score the best `FIRST` items by their vectors in full.

    Attributes:
        store: its file.
        matcher: the run that made it.
        images: the folder of its pictures.
        first: how many items are scored by their tokens.

    Args:
        folder: of the index.
        workdir: of the run, where it is no longer where it was.
        first: see above; 0 for all.

    Raises:
        UserError: there is no index, the run is not there, or another run is.
    """

    def __init__(self, folder: str | Path, workdir: str = "", first: int = FIRST):
        if first < 0:
            raise UserError(f"first={first}: must be 0 or more")
        self.store = Store(folder)
        if not self.store.count("picture"):
            raise UserError(f"{folder}: no pictures in the index; run `python -m jax_itm index` to its end")
        workdir = workdir or self.store.fact("workdir")
        self.matcher: Matcher = load(
            workdir, step=int(self.store.fact("step")), score=self.store.fact("score")
        )
        if fingerprint(self.matcher) != self.store.fact("fingerprint"):
            raise UserError(f"{workdir}: another run than the one that made the index {folder}")
        self.matcher.batch_size = self.matcher.mesh.size  # queries come one by one
        self.images = Path(self.store.fact("images"))
        self.first = first
        self._pictures = open_pictures(self.store)
        self._captions: Nearest = ExactNearest(*self.store.vectors("caption"))

    @property
    def is_complete(self) -> bool:
        """Whether the last update of the index came to its end."""
        return self.store.fact("complete") == "1"

    @property
    def has_tokens(self) -> bool:
        """Whether the run scores by token sets."""
        return self.matcher.method.score_name == MaxMean.name

    @property
    def transform(self) -> ImageTransform:
        """How the run brings pictures to one size."""
        return image_transform_of(self.matcher.config, self.matcher.facts)

    def pixels(self, source: str | Path | bytes, max_pixels: int = 0) -> np.ndarray:
        """A picture, a file or its contents, in the size that the run takes: uint8 (h, v, 3).

        Args:
            source: a path, or what is in a file.
            max_pixels: the limit; 0 for the run's.

        Raises:
            UserError: it cannot be read.
        """
        transform = self.transform
        return transform_image(read_picture(source, "picture", max_pixels or transform.max_pixels), transform)

    def pictures_for_text(self, text: str, top: int) -> list[Hit]:
        """The `top` pictures that match a caption best; UserError where nothing in it is visible."""
        query = self.matcher.encode_texts([caption(text, "caption")])
        count = self._candidates("picture", query, top)
        found = _of_one(self._pictures.search(to_items(query).vectors, count))
        if isinstance(query, TokenSet):
            found = self._rescored("picture", query, found)
        return self._hits("picture", found, top)

    def captions_for_image(self, pixels: np.ndarray, top: int) -> list[Hit]:
        """The `top` captions of the index that match a picture best; none where it has no captions.

        Args:
            pixels: of the picture, as `pixels` returns them.
            top: how many.
        """
        return self._captions_for(self.matcher.encode_pixels(pixels[None]), top)

    def pictures_for_image(self, pixels: np.ndarray, top: int) -> list[Hit]:
        """The `top` pictures of the index whose vectors are nearest to a picture's."""
        query = to_items(self.matcher.encode_pixels(pixels[None])).vectors
        return self._hits("picture", _of_one(self._pictures.search(query, top)), top)

    def captions_for_picture(self, picture: int, top: int) -> list[Hit]:
        """The same as `captions_for_image`, of a picture of the index."""
        return self._captions_for(self._encoded([picture]), top)

    def pictures_for_picture(self, picture: int, top: int) -> list[Hit]:
        """The same as `pictures_for_image`, of a picture of the index, which is not its own neighbour."""
        self.store.size(picture)
        found = _of_one(self._pictures.search(self.store.vectors_of("picture", [picture]), top + 1))
        hits = self._hits("picture", found, top + 1)
        return [hit for hit in hits if hit.id != picture][:top]

    def _captions_for(self, image: PyTree, top: int) -> list[Hit]:
        if not self.store.count("caption"):
            return []
        found = self._captions.search(to_items(image).vectors, self._candidates("caption", image, top))
        if isinstance(image, TokenSet):
            found = self._rescored("caption", image, found)
        return self._hits("caption", found, top)

    def _candidates(self, kind: str, query: PyTree, top: int) -> int:
        """How many items to take by their vectors."""
        if not isinstance(query, TokenSet):
            return top
        return max(top, self.first) if self.first else self.store.count(kind)

    def _rescored(self, kind: str, query: TokenSet, found: Neighbours) -> Neighbours:
        """The same items in the order of their score by tokens."""
        ids = np.sort(found.ids[0])
        items = self._encoded(ids.tolist(), kind)
        if kind == "picture":
            scores = self.matcher.score(items, query)[:, 0]
        else:
            scores = self.matcher.score(query, items)[0]
        order = np.argsort(-scores, kind="stable")
        return Neighbours(ids[None, order], scores[None, order])

    def _encoded(self, ids: list[int], kind: str = "picture") -> PyTree:
        """The encodings of items of the index, as the run's score takes them."""
        if kind == "picture":
            for picture in ids[:1]:
                self.store.size(picture)
        vectors = self.store.vectors_of(kind, ids)
        if not self.has_tokens:
            return vectors
        tokens = self.store.tokens(kind, ids)
        # A fixed width for captions, so that their score is compiled once; all pictures have as many tokens.
        width = self.matcher.config.data.max_words if kind == "caption" else max(map(len, tokens))
        return token_sets(vectors, tokens, width)

    def _hits(self, kind: str, found: Neighbours, top: int) -> list[Hit]:
        ids = found.ids[0, :top].tolist()
        names = self.store.names(kind, ids)
        pairs = zip(ids, found.scores[0, :top].tolist(), strict=True)
        return [Hit(number, score, names[number]) for number, score in pairs if number in names]


def open_pictures(store: Store) -> Nearest:
    """The search in the pictures of an index: approximate where they are many."""
    if store.count("picture") > EXACT_UP_TO:
        return open_approximate(store)
    return ExactNearest(*store.vectors("picture"))


def _of_one(found: Neighbours) -> Neighbours:
    """What was found for one query, without the ids that an approximate search lacks."""
    is_there = found.ids[0] >= 0
    return Neighbours(found.ids[:, is_there], found.scores[:, is_there])
