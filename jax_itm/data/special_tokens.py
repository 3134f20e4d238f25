"""The ids that mark a text's start, end and padding, and how SigLIP brings a text into its normal form."""

import string
from typing import NamedTuple

import tokenizers
from tokenizers import normalizers

from jax_itm.errors import UserError

PAD = "[PAD]"
UNKNOWN = "[UNK]"
START = "[CLS]"
END = "[SEP]"
SPECIAL = [PAD, UNKNOWN, START, END]
CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]  # CLIP's padding is masked, so its id does not matter
GEMMA_SPECIAL = ["<eos>", "<pad>"]  # SigLIP 2's; its vocabulary has </s>, too, as a mark of HTML
T5_SPECIAL = ["</s>", "<unk>"]  # SigLIP's, which pads with </s>


class Marks(NamedTuple):
    """Ids that are put around and after a text's own.

    Attributes:
        start: before a text; () if there is none.
        end: after it.
        pad: fills the rest.
    """

    start: tuple[int, ...]
    end: int
    pad: int


def find_marks(tokenizer: tokenizers.Tokenizer) -> Marks:
    """The marks of a BERT's, CLIP's or SigLIP's vocabulary.

    Raises:
        UserError: it has none of these.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    has = lambda tokens: all(token in ids for token in tokens)
    if has(CLIP_SPECIAL):
        start, end = CLIP_SPECIAL
        return Marks((ids[start],), ids[end], 0)
    if has(SPECIAL) and ids[PAD] == 0:
        return Marks((ids[START],), ids[END], 0)
    for siglip, (end, pad) in ((GEMMA_SPECIAL, GEMMA_SPECIAL), (T5_SPECIAL, T5_SPECIAL[:1] * 2)):
        if has(siglip):
            return Marks((), ids[end], ids[pad])
    raise UserError(f"tokenizer: needs the tokens {', '.join(SPECIAL)}, with {PAD} as 0")


def complete_siglip(tokenizer: tokenizers.Tokenizer, bare: bool = False) -> None:
    """Makes SigLIP's tokenizer bring a text into the form that it was trained on, as big_vision does.

    SigLIP's texts are lower-cased and lose their punctuation, SigLIP 2's are lower-cased alone. Not every
    published tokenizer.json says so; where one does, doing it twice changes nothing. With `bare`, SigLIP 2's
    lose their punctuation, too, and a _ is a blank: open_clip's way.
    """
    lower: list[normalizers.Normalizer] = [normalizers.Lowercase()]
    if bare:
        lower.append(normalizers.Replace("_", " "))
    if bare or None in [tokenizer.token_to_id(token) for token in GEMMA_SPECIAL]:
        marks = "".join("\\" + mark for mark in string.punctuation)
        lower += [
            normalizers.Replace(tokenizers.Regex(f"[{marks}]"), ""),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([*lower, *own])
