"""The tokenizers of BERT, CLIP and SigLIP, from their vocabularies or from a tokenizer.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from jax_itm.data.special_tokens import CLIP_SPECIAL, complete_siglip, find_marks
from jax_itm.data.tokenizer_options import (
    BERT,
    BERT_CLASSES,
    NEEDED,
    NEEDED_OF_SIGLIP,
    BertOptions,
    bert_options,
    read_options,
)
from jax_itm.errors import UserError

JSON_FILE = "tokenizer.json"

CLIP_WORDS = (  # how CLIP splits a caption before it applies byte pairs
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def tokenizer_of_json(folder: Path, bare: bool) -> tokenizers.Tokenizer:
    """The tokenizer of a directory's tokenizer.json, with the options of its tokenizer_config.json.

    Args:
        folder: the directory.
        bare: whether SigLIP 2's texts lose their punctuation, too.

    Raises:
        UserError: the file is no tokenizer, lacks the marks of those known here, or its options ask for other
            ids.
    """
    file = folder / JSON_FILE
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
        is_siglip = not find_marks(tokenizer).start
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{file}: not a tokenizer's JSON ({error})") from error
    tokenizer.no_truncation()  # `encode` truncates and pads
    tokenizer.no_padding()
    options = read_options(folder, NEEDED_OF_SIGLIP if is_siglip else NEEDED)
    if is_siglip:
        complete_siglip(tokenizer, bare)
    elif options.get("tokenizer_class") in BERT_CLASSES:
        _let_options_win(tokenizer, folder, options)
    return tokenizer


def bert_tokenizer(model: models.Model, options: BertOptions = BERT) -> tokenizers.Tokenizer:
    """BERT's way to split a text, before `model` cuts the words."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = _bert_normalizer(options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bert_normalizer(options: BertOptions) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        lowercase=options.do_lower_case,
        strip_accents=options.strip_accents,
        handle_chinese_chars=options.tokenize_chinese_chars,
    )


def _let_options_win(tokenizer: tokenizers.Tokenizer, folder: Path, options: Mapping[str, Any]) -> None:
    """BERT's tokenizer_config.json is stronger than its tokenizer.json, as in the transformers library."""
    state = json.loads(tokenizer.to_str())["normalizer"]
    if state and state["type"] == "BertNormalizer":
        in_file = BertOptions(state["lowercase"], state["strip_accents"], state["handle_chinese_chars"])
        tokenizer.normalizer = _bert_normalizer(bert_options(folder, options, in_file))


def clip_tokenizer(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """CLIP's: lower-cased, blanks merged, split into words, and those into byte pairs."""
    try:
        model = models.BPE.from_file(
            str(vocab), str(merges), unk_token=CLIP_SPECIAL[1], end_of_word_suffix="</w>"
        )
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{vocab}, {merges}: not a byte-pair vocabulary ({error})") from error
    tokenizer = tokenizers.Tokenizer(model)
    blanks = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer
