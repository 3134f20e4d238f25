"""Tokenizers: fitted on the training captions or BERT's, saved with the run, the same everywhere."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jax_itm.data.sources.raw import read_table
from jax_itm.errors import UserError

PAD, UNKNOWN, START, END = SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]  # CLIP's; its padding is masked, whatever its id
KINDS = ("words", "wordpiece")
FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")  # of a pretrained tower's directory
CLIP_FILES = ("vocab.json", "merges.txt")  # in place of the first
CLIP_WORDS = (  # how CLIP cuts a caption before its byte pairs
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokenizer:
    """Lower-cased, accents stripped, split at blanks and punctuation, then words or word pieces.

    A cased vocabulary of BERT's keeps case and accents.
    """

    def __init__(self, fitted: tokenizers.Tokenizer):
        self._fitted = fitted
        ids, others = ([fitted.token_to_id(token) for token in names] for names in (SPECIAL, CLIP_SPECIAL))
        if None not in others:
            self._start, self._end = others
        elif None in ids or ids[0] != 0:
            raise UserError(f"tokenizer: needs the tokens {', '.join(SPECIAL)}, with {PAD} as 0")
        else:
            self._start, self._end = ids[2], ids[3]
        self._ids = 1 + max(fitted.get_vocab(with_added_tokens=True).values())

    @classmethod
    def fit(
        cls,
        captions: Iterable[str],
        kind: str = "words",
        min_count: int = 1,
        vocab_size: int = 30000,
    ) -> "Tokenizer":
        """A tokenizer of the captions' vocabulary.

        Args:
            captions: the training captions.
            kind: "words" or "wordpiece".
            min_count: rarer words (or pairs of pieces) are left out.
            vocab_size: at most so many entries, the four special ones included.

        Raises:
            UserError: no such kind.
        """
        if kind not in KINDS:
            raise UserError(f"config.data.tokenizer={kind!r}: must be one of {', '.join(KINDS)}")
        model, trainer = (
            (models.WordLevel, trainers.WordLevelTrainer)
            if kind == "words"
            else (models.WordPiece, trainers.WordPieceTrainer)
        )
        normalizer, captions = normalizers.BertNormalizer(), list(captions)
        # The trainer numbers the pieces of one letter as its hash map happens to give them; told
        # beforehand, they and so the whole vocabulary are the same on every host and every run.
        letters = sorted(set("".join(map(normalizer.normalize_str, captions))) - set(" "))
        pieces = ["##" + letter for letter in letters] if kind == "wordpiece" else []
        learner = _tokenizer(model(unk_token=UNKNOWN))
        learner.train_from_iterator(
            captions,
            trainer(
                vocab_size=vocab_size,
                min_frequency=min_count,
                special_tokens=SPECIAL + pieces,
                show_progress=False,
            ),
        )
        vocabulary = learner.get_vocab(with_added_tokens=True)
        return cls(_tokenizer(model(vocabulary, unk_token=UNKNOWN)))

    @classmethod
    def from_vocab(cls, path: str, lower: bool) -> "Tokenizer":
        """BERT's word pieces, with BERT's ids: the number of a piece's line, from 0.

        Args:
            path: BERT's `vocab.txt`, one piece a line, later pieces of a word after ##.
            lower: whether it is an uncased one.

        Raises:
            UserError: the file is not text, has a piece twice, or lacks the special tokens.
        """
        try:
            # Not splitlines(): it also cuts at characters that are pieces of their own.
            pieces = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error})") from error
        ids = {piece: k for k, piece in enumerate(pieces)}
        if len(ids) < len(pieces):
            twice = next(k for k, piece in enumerate(pieces) if ids[piece] != k)
            raise UserError(f"{path}: {pieces[twice]!r} is in line {twice + 1} and again later")
        if not set(SPECIAL) <= ids.keys() or ids[PAD]:
            raise UserError(f"{path}: needs the tokens {', '.join(SPECIAL)}, with {PAD} in line 1")
        # [UNK] for words of more letters is BERT's rule, too.
        model = models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100)
        return cls(_tokenizer(model, lower))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a pretrained tower's directory: tokenizer.json, else BERT's or CLIP's own files.

        Raises:
            UserError: neither is there, or it is not understood; the file is named.
        """
        whole, pieces, _ = (folder / name for name in FILES)
        if whole.exists():
            try:
                fitted = tokenizers.Tokenizer.from_file(str(whole))
                fitted.no_truncation()  # `encode` does both
                fitted.no_padding()
                return cls(fitted)
            except UserError as error:
                raise UserError(f"{whole}: {error}") from error
            except Exception as error:  # the library raises nothing narrower
                raise UserError(f"{whole}: not a tokenizer's JSON ({error})") from error
        if all((folder / name).exists() for name in CLIP_FILES):
            return cls(_byte_pairs(*(folder / name for name in CLIP_FILES)))
        if not pieces.exists():
            raise UserError(f"{folder}: neither {whole.name} nor {pieces.name} there")
        return cls.from_vocab_folder(folder)

    @classmethod
    def from_vocab_folder(cls, folder: Path) -> "Tokenizer":
        """BERT's word pieces, from vocab.txt; tokenizer_config.json tells whether they are cased."""
        _, pieces, said = (folder / name for name in FILES)
        # tokenizer_config.json may be absent or silent: uncased then, as BERT's own default is.
        lower = (read_table(said) if said.exists() else {}).get("do_lower_case", True)
        if not isinstance(lower, bool):
            raise UserError(f"{said}: do_lower_case is {lower!r}, must be true or false")
        return cls.from_vocab(str(pieces), lower)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` wrote.

        Raises:
            UserError: the text is not a tokenizer's JSON, or lacks the special tokens.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"tokenizer: not a tokenizer's JSON ({error})") from error

    def to_json(self) -> str:
        """The whole tokenizer, in the `tokenizers` library's format."""
        return self._fitted.to_str()

    def __len__(self) -> int:
        """How many ids there are, up to the highest, though a tokenizer of others may leave some out."""
        return self._ids

    def encode(self, captions: Sequence[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] .. [SEP], padded with 0 on the right; a long caption loses its end, never [SEP].

        Args:
            captions: n captions.
            max_words: the width w, [CLS] and [SEP] included.

        Returns:
            ids int32 (n, w), and mask bool (n, w), True on what is not padding.
        """
        ids = np.zeros((len(captions), max_words), np.int32)
        mask = np.zeros((len(captions), max_words), bool)
        for row, encoding in enumerate(self._encodings(captions)):
            tokens = [self._start, *encoding.ids[: max_words - 2], self._end]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
        return ids, mask

    def _encodings(self, captions: Sequence[str]) -> list[tokenizers.Encoding]:
        try:
            return self._fitted.encode_batch(list(captions), add_special_tokens=False)
        except Exception as error:  # the library raises nothing narrower, of what the JSON of others says
            raise UserError(f"tokenizer: it fails on a caption ({error})") from error

    def spans(self, captions: Sequence[str], max_words: int) -> list[np.ndarray]:
        """Where each id of `encode` lies in its caption: int (max_words, 2), first and past the last letter.

        [CLS], [SEP] and padding lie nowhere: 0, 0.
        """
        found = []
        for encoding in self._encodings(captions):
            places = np.zeros((max_words, 2), np.int64)
            offsets = encoding.offsets[: max_words - 2]
            places[1 : len(offsets) + 1] = np.reshape(offsets, (-1, 2))
            found.append(places)
        return found


def _tokenizer(model: models.Model, lower: bool = True) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)  # accents go only with capitals
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _byte_pairs(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """CLIP's: lower-cased, blanks joined, cut into words, and these into pairs of bytes."""
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
