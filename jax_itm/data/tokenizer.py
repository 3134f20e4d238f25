"""Tokenizers: fitted on the training captions or published, saved with the run, the same on every host."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, processors, trainers

from jax_itm.data.published_tokenizers import JSON_FILE, bert_tokenizer, clip_tokenizer, tokenizer_of_json
from jax_itm.data.special_tokens import PAD, SPECIAL, UNKNOWN, find_marks
from jax_itm.data.tokenizer_options import (
    BertOptions,
    bert_options,
    check_added_tokens,
    read_options,
)
from jax_itm.errors import UserError

KINDS = ("words", "wordpiece")

# Files of a pretrained encoder's directory, in the order in which they are tried.
CLIP_FILES = ("vocab.json", "merges.txt")
VOCAB_FILE = "vocab.txt"
PIECES = "*.model"  # sentencepiece's, such as SigLIP's spiece.model, which is not read


class Tokenizer:
    """Splits captions into words, word pieces or byte pairs, and numbers these.

    A tokenizer that is fitted here, or that has one of BERT's uncased vocabularies, lower-cases captions,
    strips accents, and splits at blanks and punctuation; a cased vocabulary keeps case and accents.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self._tokenizer = tokenizer
        self.marks = find_marks(tokenizer)
        self._size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def fit(
        cls,
        captions: Iterable[str],
        kind: str = "words",
        min_count: int = 1,
        vocab_size: int = 30000,
    ) -> "Tokenizer":
        """A tokenizer with the vocabulary of the captions.

        Args:
            captions: the training captions.
            kind: "words" or "wordpiece".
            min_count: words (or pairs of pieces) that occur less often are left out.
            vocab_size: the largest number of entries, the four special ones included.

        Raises:
            UserError: there is no such kind, or no word is left.
        """
        if kind not in KINDS:
            raise UserError(f"config.data.tokenizer={kind!r}: must be one of {', '.join(KINDS)}")
        if kind == "words":
            model = models.WordLevel
            trainer = trainers.WordLevelTrainer
        else:
            model = models.WordPiece
            trainer = trainers.WordPieceTrainer
        normalizer = normalizers.BertNormalizer()
        captions = list(captions)
        # The trainer numbers pieces of one letter in the order of its hash map. With those listed beforehand,
        # the vocabulary is the same on every host and in every run.
        letters = sorted(set("".join(map(normalizer.normalize_str, captions))) - set(" "))
        pieces = ["##" + letter for letter in letters] if kind == "wordpiece" else []
        learner = bert_tokenizer(model(unk_token=UNKNOWN))
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
        if len(vocabulary) == len(SPECIAL):
            raise UserError(
                f"config.data.min_count={min_count}, config.data.vocab_size={vocab_size}: leave no word of"
                " the training captions"
            )
        return cls(bert_tokenizer(model(vocabulary, unk_token=UNKNOWN)))

    @classmethod
    def from_vocab(cls, path: str, lower: bool, options: BertOptions | None = None) -> "Tokenizer":
        """BERT's word pieces, with BERT's ids: the number of a piece's line, from 0.

        Args:
            path: BERT's `vocab.txt`, one piece a line, those that continue a word after ##.
            lower: whether the vocabulary is uncased.
            options: what else tokenizer_config.json says; it decides `lower`, too.

        Raises:
            UserError: the file is not text, has a piece twice, or lacks a special token.
        """
        try:
            # Not splitlines(): it would also split at characters that are pieces of their own.
            pieces = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error})") from error
        ids = {piece: k for k, piece in enumerate(pieces)}
        if len(ids) < len(pieces):
            repeated = next(k for k, piece in enumerate(pieces) if ids[piece] != k)
            raise UserError(f"{path}: {pieces[repeated]!r} is in line {repeated + 1} and again later")
        if not set(SPECIAL) <= ids.keys() or ids[PAD]:
            raise UserError(f"{path}: needs the tokens {', '.join(SPECIAL)}, with {PAD} in line 1")
        # As in BERT, longer words are unknown.
        model = models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100)
        return cls(bert_tokenizer(model, options or BertOptions(lower)))

    @classmethod
    def from_folder(cls, folder: Path, bare: bool = False) -> "Tokenizer":
        """The tokenizer of a pretrained encoder's directory: tokenizer.json, else CLIP's or BERT's own files.

        Args:
            folder: the directory.
            bare: whether SigLIP 2's texts lose their punctuation, too, as open_clip has it.

        Raises:
            UserError: none of them is there, or one cannot be understood; the file is named. Or
                tokenizer_config.json asks for ids that no tokenizer here gives.
        """
        if (folder / JSON_FILE).exists():
            return cls(tokenizer_of_json(folder, bare))
        read_options(folder)
        if all((folder / name).exists() for name in CLIP_FILES):
            return cls(clip_tokenizer(*(folder / name for name in CLIP_FILES)))
        if not (folder / VOCAB_FILE).exists():
            if pieces := next(folder.glob(PIECES), None):
                raise UserError(f"{folder}: {pieces.name} is not read here; put its {JSON_FILE} beside it")
            raise UserError(f"{folder}: neither {JSON_FILE} nor {VOCAB_FILE} there")
        return cls.from_vocab_folder(folder)

    @classmethod
    def from_vocab_folder(cls, folder: Path) -> "Tokenizer":
        """BERT's word pieces, from vocab.txt, with the options of tokenizer_config.json."""
        settings = read_options(folder)
        options = bert_options(folder, settings)
        tokenizer = cls.from_vocab(str(folder / VOCAB_FILE), options.do_lower_case, options)
        check_added_tokens(folder, settings, tokenizer._tokenizer.get_vocab())
        return tokenizer

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` wrote.

        Raises:
            UserError: the text is not a tokenizer's JSON, or a special token is missing.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"tokenizer: not a tokenizer's JSON ({error})") from error

    def to_json(self) -> str:
        """The complete tokenizer, in the format of the `tokenizers` library."""
        return self._tokenizer.to_str()

    def to_published_json(self) -> str:
        """As `to_json`, and it puts the marks around a text by itself, as other programs expect."""
        words = {number: word for word, number in self.vocabulary().items()}
        marks = [(words[number], number) for number in (*self.marks.start, self.marks.end)]
        template = [*(word for word, _ in marks[:-1]), "$A", marks[-1][0]]
        tokenizer = tokenizers.Tokenizer.from_str(self.to_json())
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
        return tokenizer.to_str()

    def vocabulary(self) -> dict[str, int]:
        """The id of each entry."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        """The highest id plus one; a published tokenizer may leave some ids out."""
        return self._size

    def encode(self, captions: Sequence[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] .. [SEP], padded on the right; a caption that is too long is cut before its [SEP].

        SigLIP's tokenizers put an end behind a caption, and nothing before it.

        Args:
            captions: n captions.
            max_words: the width w, [CLS] and [SEP] included.

        Returns:
            ids int32 (n, w), and mask bool (n, w), False on padding.
        """
        start, end, pad = self.marks
        ids = np.full((len(captions), max_words), pad, np.int32)
        mask = np.zeros((len(captions), max_words), bool)
        for row, encoding in enumerate(self._encodings(captions)):
            tokens = [*start, *encoding.ids[: max_words - 1 - len(start)], end]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def spans(self, captions: Sequence[str], max_words: int) -> list[np.ndarray]:
        """Where each id of `encode` is in its caption: int (max_words, 2), first and past the last character.

        The spans of [CLS], [SEP] and padding are empty: 0, 0.
        """
        first = len(self.marks.start)
        spans = []
        for encoding in self._encodings(captions):
            offsets = encoding.offsets[: max_words - 1 - first]
            span = np.zeros((max_words, 2), np.int64)
            span[first : first + len(offsets)] = np.reshape(offsets, (-1, 2))
            spans.append(span)
        return spans

    def _encodings(self, captions: Sequence[str]) -> list[tokenizers.Encoding]:
        try:
            return self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        except Exception as error:  # the library raises nothing narrower, for what a published JSON says
            raise UserError(f"tokenizer: it fails on a caption ({error})") from error
