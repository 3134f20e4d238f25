"""The options of tokenizer_config.json: each that changes ids is applied or rejected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError

FILE = "tokenizer_config.json"
BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
# Options that change ids, and the values with which the tokenizers here agree.
NEEDED: Mapping[str, tuple[Any, ...]] = {
    "do_basic_tokenize": (True,),  # split at blanks and punctuation before word pieces
    "never_split": (None, []),
    "truncation_side": ("right",),
    "unk_token": ("[UNK]", "<|endoftext|>"),
    "cls_token": ("[CLS]", "<|startoftext|>"),
    "bos_token": ("[CLS]", "<|startoftext|>", None),
    "sep_token": ("[SEP]", "<|endoftext|>"),
    "eos_token": ("[SEP]", "<|endoftext|>", None),
    "add_prefix_space": (False,),
    "split_special_tokens": (False,),
}
# The same of SigLIP's tokenizers, which put an end behind a text and nothing before it.
NEEDED_OF_SIGLIP: Mapping[str, tuple[Any, ...]] = {
    "truncation_side": ("right",),
    "padding_side": ("right",),
    "unk_token": ("<unk>",),
    "eos_token": ("</s>", "<eos>"),
    "pad_token": ("</s>", "<pad>"),
    "add_bos_token": (False,),
    "add_eos_token": (True,),
    "split_special_tokens": (False,),
}


class BertOptions(NamedTuple):
    """How BERT's tokenizer brings a caption into its normal form.

    Attributes:
        do_lower_case: whether the vocabulary is uncased.
        strip_accents: whether accents are removed; None: if `do_lower_case`.
        tokenize_chinese_chars: whether each Chinese character is a word.
    """

    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True


BERT = BertOptions()


def read_options(folder: Path, needed: Mapping[str, tuple[Any, ...]] = NEEDED) -> dict[str, Any]:
    """What a directory's tokenizer_config.json says, {} where there is none.

    Args:
        folder: the directory.
        needed: options, and the values that they may have; the first is that of an option that is not there.

    Raises:
        UserError: an option asks for other ids than the tokenizers here give.
    """
    file = folder / FILE
    options = read_table(file) if file.exists() else {}
    for name, values in needed.items():
        value = _content(options.get(name, values[0]))
        if value not in values:
            expected = " or ".join(map(repr, values))
            raise UserError(f"{file}: {name} is {value!r}, the tokenizers here need {expected}")
    return options


def bert_options(folder: Path, options: Mapping[str, Any], unstated: BertOptions = BERT) -> BertOptions:
    """BERT's own options among those of `read_options`; `unstated` has the values of the others.

    Raises:
        UserError: one is neither true nor false, or the tokenizer is another one than BERT's.
    """
    file = folder / FILE
    kind = options.get("tokenizer_class", BERT_CLASSES[0])
    if kind not in BERT_CLASSES:
        raise UserError(f"{file}: tokenizer_class is {kind!r}, but vocab.txt is read as {BERT_CLASSES[0]}'s")
    stated = {name: options[name] for name in BertOptions._fields if name in options}
    for name, value in stated.items():
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise UserError(f"{file}: {name} is {value!r}, must be true or false")
    return unstated._replace(**stated)


def check_added_tokens(folder: Path, options: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Raises UserError if tokens were added that a vocabulary has not, or has under another id."""
    file = folder / "added_tokens.json"
    added = dict(read_table(file)) if file.exists() else {}
    decoder = options.get("added_tokens_decoder", {})
    if not isinstance(decoder, Mapping):
        raise UserError(f"{folder / FILE}: added_tokens_decoder is {decoder!r}, must be a table")
    added |= {str(_content(token)): number for number, token in decoder.items()}
    for token, number in added.items():
        if str(vocabulary.get(token)) != str(number):
            raise UserError(f"{folder}: token {token!r} was added as {number}, which vocab.txt does not say")


def _content(token: Any) -> Any:
    """The text of a token, which may stand alone or in a table."""
    return token.get("content") if isinstance(token, Mapping) else token
