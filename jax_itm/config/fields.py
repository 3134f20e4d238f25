"""The fields that every run has.

Everything about a field stands here once: its default, whose type is the field's type, what it means, the
values it may take, whether it may change when a run resumes, and whether it may differ between hosts.
`loss_fields.py` has the loss terms and the two kinds of model, `presets.py` what a preset changes.
"""

from collections.abc import Iterator
from typing import Any

from jax_itm.config.field import (
    FLOAT32_MAX,
    Field,
    Section,
    count,
    duration,
    layers,
    optional_count,
    positive,
    rate,
    size,
)
from jax_itm.protocols import PROTOCOLS

PROJECTION_FIELDS: Section = {
    "hidden": optional_count(
        0,
        "width of an MLP that is added to the projection; 0: regions dim // 2, pretrained none",
        at_most=65536,
    ),
    "feature_dropout": rate(
        0.0, "fraction of the features dropped in training, the same for all tokens of an item"
    ),
}

PRETRAINED_FIELDS: Section = {
    "path": Field(
        "",
        "pretrained: a directory as Hugging Face's libraries or open_clip save it, or a name on the hub",
        resume=True,
        per_host=True,
    ),
    "arch": Field(
        "", "pretrained: no path, but an architecture's name (vit-b-16, clip-base ..): random values"
    ),
    "frozen": Field(False, "pretrained: its parameters stay as they are"),
    "tune_last": optional_count(
        0,
        "of a transformer: train its last so many layers alone, the others stay as they are; 0: all",
        at_most=1000,
    ),
    "lora": {
        "rank": optional_count(
            0,
            "of a transformer: it stays as it is, and low-rank adapters of this rank learn; 0: none",
            at_most=4096,
        ),
        "alpha": positive(16.0, "adapters are multiplied by alpha / rank"),
        "on": Field(
            (r"attention/(query|value)/kernel$",), "patterns of the kernels' paths that have an adapter"
        ),
    },
    "cached": Field(False, "of a frozen encoder: read its tokens from `prepare --encode`"),
}

POOLINGS = ("gpo", "hrem", "mean", "max", "cls", "clip", "siglip")

IMAGE: Section = {
    "name": Field("regions", "the image encoder", choices=("regions", "vit", "pretrained")),
    "pooling": Field(
        "gpo", "how tokens become one vector; cls, clip and siglip: of pretrained encoders", choices=POOLINGS
    ),
    "norm": Field(
        "none",
        "of the MLP: batch normalisation over the global batch, or none",
        choices=("none", "batch"),
    ),
    "drop": rate(0.2, "fraction of the regions hidden in training"),
    "boxes": Field(False, "regions: append each region's location to its features"),
    "patch": size(16, "vit: side of a patch in pixels"),
    "width": size(192, "vit: width of a layer"),
    "layers": layers(6, "vit: number of layers"),
    "heads": size(3, "vit: attention heads of a layer"),
    "augment": {
        "crop": Field(
            (), "(smallest, largest) fraction of a picture's area that a random crop takes; () crops nothing"
        ),
        "flip": Field(
            0.0,
            "probability of mirroring; captions that say left or right become false",
            at_least=0,
            at_most=1,
        ),
    },
    "patch_dropout": rate(
        0.0, "of a ViT: fraction of the patches left out in training, which are not computed at all (FLIP)"
    ),
    "size": optional_count(
        0, "pretrained: height and width in pixels; 0: as its preprocessor says", at_most=65536
    ),
    **PROJECTION_FIELDS,
    **PRETRAINED_FIELDS,
}

TEXT: Section = {
    "name": Field("bigru", "the text encoder", choices=("bigru", "bert", "bow", "pretrained")),
    "pooling": Field(
        "gpo", "how tokens become one vector; cls, clip and siglip: of pretrained encoders", choices=POOLINGS
    ),
    "drop": rate(0.2, "fraction of the words hidden in training"),
    "word_dim": size(300, "bigru: width of a word vector"),
    "vectors": Field(
        "",
        "bigru and bow: a text file of word vectors (GloVe's, word2vec's) that the word table starts from",
        resume=True,
        per_host=True,
    ),
    "width": size(256, "bert: width of a layer"),
    "layers": layers(4, "bert: number of layers"),
    "heads": size(4, "bert: attention heads of a layer"),
    "dropout": rate(0.1, "bert and pretrained: dropout inside the layers"),
    **PROJECTION_FIELDS,
    **PRETRAINED_FIELDS,
}

SIMILARITY: Section = {
    "schedule": Field(
        "auto",
        "how the columns of the similarity matrix reach each device",
        choices=("auto", "ring", "gather"),
        resume=True,
    ),
    "tile": optional_count(
        0, "largest height and width of a tile; 0: chosen by the kind of device", resume=True
    ),
    "dtype": Field(
        "float32",
        "of the products of embeddings, the same on every platform; tf32: three bfloat16 passes on TPUs",
        choices=("float32", "tf32", "bfloat16"),
    ),
}

DATA: Section = {
    "name": Field("scenes", "the prepared data set"),
    "source": Field("", "the folder of raw files, for `prepare`", resume=True, per_host=True),
    "data_dir": Field("data", "where prepared data sets lie", resume=True, per_host=True),
    "mixture": Field(
        (), "further sets to train and validate on, (name, data_dir, weight) each; that of data.name is 1"
    ),
    "train": Field("train", "split to train on"),
    "validation": Field("val", "split to validate on"),
    "modality": Field("regions", "what is read of an image", choices=("regions", "pixels")),
    "max_words": count(
        32,
        "words of a caption, special tokens included; longer captions are cut",
        at_least=3,
        at_most=65536,
    ),
    "max_regions": size(36, "regions of an image; an image with more is an error"),
    "image_size": size(96, "side in pixels of what a randomly initialised encoder reads"),
    "max_pixels": count(89_478_485, "pixels that a picture file may have", at_most=2**40, resume=True),
    "tokenizer": Field(
        "words",
        "fitted on the training captions unless the text encoder brings its own",
        choices=("words", "wordpiece"),
    ),
    "min_count": count(1, "words: occurrences that a word needs to be kept"),
    "vocab_size": count(30000, "largest number of ids"),
    "workers": optional_count(
        0, "processes that read; 0 reads in threads", at_most=1024, resume=True, per_host=True
    ),
}

OPTIMIZER: Section = {
    "name": Field("adamw", "bert_adam is UNITER's and IAIS's", choices=("adamw", "bert_adam")),
    "lr": Field(5e-4, "peak learning rate", at_least=0, at_most=FLOAT32_MAX),
    "schedule": Field("step", "of the learning rate", choices=("constant", "cosine", "linear", "step")),
    "warmup": duration("0 steps", "linear rise from 0 to `lr`"),
    "floor": Field(0.0, "the rate is never lower", at_least=0, at_most=FLOAT32_MAX),
    "step_at": duration(("15 epochs",), "schedule=step: when the rate is multiplied by `step_factor`"),
    "step_factor": positive(0.1, "schedule=step: the factor"),
    "betas": Field((0.9, 0.999), "Adam's decay rates of the two moments"),
    "eps": positive(1e-8, "Adam's epsilon"),
    "weight_decay": Field(1e-4, "decoupled weight decay", at_least=0, at_most=FLOAT32_MAX),
    "decay_on": Field((r"(kernel|recurrent|embedding)$",), "patterns of the parameter paths that decay"),
    "lr_factors": Field((), "(pattern, factor) pairs: the rate of these parameters is multiplied"),
    "layer_decay": Field(
        1.0,
        "factor on the rate from one layer of a transformer to the one before it (BEiT's 0.65 to 0.9)",
        above=0,
        at_most=1,
    ),
    "freeze": Field((), "patterns of the parameter paths that stay as they are"),
    "clip": Field(
        2.0, "largest global norm of the gradient; 0 does not clip", at_least=0, at_most=FLOAT32_MAX
    ),
}

EVALUATE: Section = {
    "every": duration("1 epochs", "between validations"),
    "batch_size": count(250, "items encoded at a time", at_most=2**20, resume=True),
    "protocol": Field(
        "full",
        "full; folds: the mean of five equal folds of images; coco_5k, coco_1k: these, of COCO's size alone",
        choices=tuple(PROTOCOLS),
    ),
    "images": optional_count(0, "validate on the first so many images; 0: all"),
}

LOG: Section = {
    "wandb": Field("", "a project at Weights & Biases that scalars are sent to; empty: none", resume=True),
    "wandb_mode": Field(
        "online",
        "offline: they are kept in the run's directory, for `wandb sync`",
        choices=("online", "offline"),
        resume=True,
    ),
}

COMMON: Section = {
    "name": Field("", "of the run, in tables and figures", resume=True),
    "imports": Field(
        (), "modules that register loss terms of your own; imported first, so that their fields can be set"
    ),
    "start": Field("", "a run, or a BERT directory, whose parameters and tokenizer this one starts from"),
    "seed": optional_count(0, "of parameters, dropout and the order of the data"),
    "batch_size": count(128, "matched pairs of one update, over all devices", at_most=2**24),
    "micro_batches": count(
        1, "exact accumulation: the encoders run in so many parts, the loss sees all", at_most=65536
    ),
    "duration": duration("30 epochs", "of the run"),
    "dtype": Field(
        "float32",
        "of the encoders' compute; parameters and losses stay float32",
        choices=("float32", "bfloat16"),
    ),
    "precision": Field(
        "default",
        "of the encoders' float32 products; default: a bfloat16 pass on TPUs, TF32 on GPUs; highest: float32",
        choices=("default", "high", "highest"),
    ),
    "dim": size(1024, "of the shared embedding"),
    "ema": rate(0.0, "decay of averaged parameters, which evaluation then uses; 0 keeps none"),
    "fsdp": Field(False, "split large arrays of the training state over the devices", resume=True),
    "remat": Field(
        False, "compute transformer layers again in the backward pass instead of keeping them", resume=True
    ),
    "patience": Field(
        600.0,
        "seconds without progress after which one of several processes stops; 0: waits",
        at_least=0,
        at_most=1e9,
        resume=True,
    ),
    "log_every": count(20, "steps between logged steps", resume=True),
    "log": LOG,
    "image": IMAGE,
    "text": TEXT,
    "data": DATA,
    "similarity": SIMILARITY,
    "optimizer": OPTIMIZER,
    "evaluate": EVALUATE,
}


def defaults(section: Section) -> dict[str, Any]:
    """The defaults of a section, as nested dicts."""
    return {
        name: entry.default if isinstance(entry, Field) else defaults(entry)
        for name, entry in section.items()
    }


def flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """("optimizer.lr", its Field) and so on, in order."""
    for name, entry in section.items():
        if isinstance(entry, Field):
            yield prefix + name, entry
        else:
            yield from flat(entry, f"{prefix}{name}.")
