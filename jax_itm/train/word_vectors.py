"""Initialises a word table with published word vectors, such as GloVe's."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_itm.data.tokenizer import Tokenizer
from jax_itm.errors import UserError
from jax_itm.types import Params

TABLE = "text/words/embedding"  # of the encoders bigru and bow


def read_vectors(path: str, words: Mapping[str, int], size: int) -> dict[int, np.ndarray]:
    """The vectors of a text file for the words of a vocabulary: {id: float32 (size,)}.

    A line is a word and its numbers, divided by blanks; word2vec's first line, of two numbers, is skipped,
    and so are words that are not in the vocabulary. The file may be larger than the memory.

    Args:
        path: the file.
        words: the vocabulary, word -> id.
        size: of a vector.

    Raises:
        UserError: the file cannot be read, has vectors of another size or what is no number, or has no word
            of the vocabulary.
    """
    vectors: dict[int, np.ndarray] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, *values = line.rstrip().split(" ")
                is_count = number == 1 and len(values) == 1
                if is_count or word not in words:
                    continue
                vectors[words[word]] = _vector(values, size, f"config.text.vectors={path}: line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.text.vectors={path}: cannot be read ({error})") from error
    if not vectors:
        raise UserError(f"config.text.vectors={path}: has no word of the training captions")
    return vectors


def _vector(values: list[str], size: int, where: str) -> np.ndarray:
    try:
        vector = np.array([float(value) for value in values], np.float32)
    except ValueError as error:
        raise UserError(f"{where}: holds what is no number ({error})") from error
    if len(vector) != size:
        raise UserError(f"{where}: {len(vector)} numbers, but config.text's word vectors have {size}")
    if not np.isfinite(vector).all():
        raise UserError(f"{where}: holds a number that is not finite")
    return vector


def start_word_table(params: Params, tokenizer: Tokenizer, path: str) -> tuple[Params, str]:
    """The parameters with the word table's rows from a file, where it has them, and a line that says so.

    Words that the file has not keep their random values.

    Raises:
        UserError: what `read_vectors` refuses.
    """
    flat: Any = flatten_dict(params, sep="/", keep_empty_nodes=True)
    table = np.array(flat[TABLE])
    words = tokenizer.vocabulary()
    vectors = read_vectors(path, words, table.shape[1])
    for number, vector in vectors.items():
        table[number] = vector
    flat[TABLE] = jnp.asarray(table)
    note = f"config.text.vectors={path}: {len(vectors):,} of {len(words):,} words start from it"
    return unflatten_dict(flat, sep="/"), note
