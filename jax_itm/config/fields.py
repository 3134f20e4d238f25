"""The fields that every run has.

Everything about a field is declared here once: its default, whose type is the field's type, its meaning, the
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
        "width of an MLP that is added to the projection; 0: dim // 2 for regions, none if pretrained",
        at_most=65536,
    ),
    "feature_dropout": rate(
        0.0, "fraction of the features dropped in training, the same for all tokens of an item"
    ),
}

PRETRAINED_FIELDS: Section = {
    "path": Field(
        "",
        "pretrained: a directory as Hugging Face's libraries, open_clip or big_vision save it, or a name on"
        " the hub",
        resume=True,
        per_host=True,
    ),
    "arch": Field(
        "", "pretrained: an architecture to train from scratch, instead of a path (vit-b-16, clip-base ..)"
    ),
    "frozen": Field(False, "pretrained: do not train its parameters"),
    "tune_last": optional_count(
        0, "transformers: train only this many of the last layers; 0: all", at_most=1000
    ),
    "lora": {
        "rank": optional_count(
            0,
            "transformers: train low-rank adapters of this rank instead of the parameters; 0: none",
            at_most=4096,
        ),
        "alpha": positive(16.0, "adapters are multiplied by alpha / rank"),
        "on": Field(
            (r"attention/(query|value)/kernel$",), "patterns of the paths of the kernels that have an adapter"
        ),
    },
    "cached": Field(False, "frozen encoders: read the tokens that `prepare --encode` has computed"),
}

POOLINGS = ("gpo", "hrem", "mean", "max", "cls", "clip", "siglip")

IMAGE: dict[str, Any] = {
    "name": Field("regions", "the image encoder", choices=("regions", "vit", "pretrained")),
    "pooling": Field(
        "gpo", "how tokens become one vector; cls, clip and siglip: of pretrained encoders", choices=POOLINGS
    ),
    "norm": Field(
        "none",
        "the normalisation in the MLP; batch: over the global batch",
        choices=("none", "batch"),
    ),
    "drop": rate(0.2, "fraction of the regions, or of a pretrained encoder's patches, hidden in training"),
    "boxes": Field(False, "regions: append each region's location to its features"),
    "patch": size(16, "vit: side of a patch in pixels"),
    "width": size(192, "vit: width of a layer"),
    "layers": layers(6, "vit: number of layers"),
    "heads": size(3, "vit: attention heads of a layer"),
    "augment": {
        "crop": Field((), "(smallest, largest) fraction of a picture's area in a random crop; (): no crops"),
        "flip": Field(
            0.0,
            "probability of mirroring; captions that say left or right become false",
            at_least=0,
            at_most=1,
        ),
    },
    "patch_dropout": rate(
        0.0, "ViT: fraction of the patches dropped in training, which also saves their computation (FLIP)"
    ),
    "size": optional_count(
        0, "pretrained: height and width in pixels; 0: those of its preprocessor", at_most=65536
    ),
    **PROJECTION_FIELDS,
    **PRETRAINED_FIELDS,
}

TEXT: dict[str, Any] = {
    "name": Field("bigru", "the text encoder", choices=("bigru", "bert", "bow", "pretrained")),
    "pooling": Field(
        "gpo", "how tokens become one vector; cls, clip and siglip: of pretrained encoders", choices=POOLINGS
    ),
    "drop": rate(0.2, "fraction of the words hidden in training"),
    "word_dim": size(300, "bigru: width of a word vector"),
    "vectors": Field(
        "",
        "bigru and bow: a text file of word vectors (GloVe, word2vec) to initialise the word table with",
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
        "how each device receives the columns of the similarity matrix",
        choices=("auto", "ring", "gather"),
        resume=True,
    ),
    "tile": optional_count(
        0, "largest height and width of a tile; 0: depends on the kind of device", resume=True
    ),
    "dtype": Field(
        "float32",
        "precision of the scores in the losses, on every platform; tf32: three bfloat16 passes on TPUs",
        choices=("float32", "tf32", "bfloat16"),
    ),
}

DATA: Section = {
    "name": Field("scenes", "the prepared data set"),
    "source": Field("", "the folder of raw files, for `prepare`", resume=True, per_host=True),
    "data_dir": Field("data", "the directory of prepared data sets", resume=True, per_host=True),
    "mixture": Field(
        (), "more sets to train and validate on: (name, data_dir, weight) each; data.name has weight 1"
    ),
    "train": Field("train", "split to train on"),
    "validation": Field("val", "split to validate on"),
    "modality": Field("regions", "what is read for an image", choices=("regions", "pixels")),
    "max_words": count(
        32,
        "words of a caption, including special tokens; longer captions are truncated",
        at_least=3,
        at_most=65536,
    ),
    "max_regions": size(36, "regions of an image; an image with more is an error"),
    "image_size": size(
        96,
        "height and width in pixels of the pictures that a randomly initialised encoder reads",
    ),
    "max_pixels": count(89_478_485, "largest number of pixels of a picture file", at_most=2**40, resume=True),
    "tokenizer": Field(
        "words",
        "kind of tokenizer fitted on the training captions, unless the text encoder has its own",
        choices=("words", "wordpiece"),
    ),
    "min_count": count(1, "words: how often a word must occur to be in the vocabulary"),
    "vocab_size": count(30000, "largest size of the vocabulary"),
    "workers": optional_count(0, "reader processes; 0: threads", at_most=1024, resume=True, per_host=True),
}

OPTIMIZER: Section = {
    "name": Field(
        "adamw", "the optimizer; bert_adam is that of UNITER and IAIS", choices=("adamw", "bert_adam")
    ),
    "lr": Field(5e-4, "peak learning rate", at_least=0, at_most=FLOAT32_MAX),
    "schedule": Field(
        "step", "schedule of the learning rate", choices=("constant", "cosine", "linear", "step")
    ),
    "warmup": duration("0 steps", "duration of the linear rise from 0 to `lr`"),
    "floor": Field(0.0, "the lowest learning rate", at_least=0, at_most=FLOAT32_MAX),
    "step_at": duration(("15 epochs",), "schedule=step: when the rate is multiplied by `step_factor`"),
    "step_factor": positive(0.1, "schedule=step: the factor"),
    "betas": Field((0.9, 0.999), "Adam's decay rates of the two moments"),
    "eps": positive(1e-8, "Adam's epsilon"),
    "weight_decay": Field(1e-4, "decoupled weight decay", at_least=0, at_most=FLOAT32_MAX),
    "decay_on": Field(
        (r"(kernel|recurrent|embedding)$",), "patterns of the paths of the parameters that decay"
    ),
    "lr_factors": Field(
        (), "(pattern, factor) pairs: the learning rate of matching parameters is multiplied by the factor"
    ),
    "layer_decay": Field(
        1.0,
        "factor on the learning rate from each transformer layer to the one below it (BEiT: 0.65 to 0.9)",
        above=0,
        at_most=1,
    ),
    "freeze": Field((), "patterns of the paths of the parameters that are not trained"),
    "clip": Field(
        2.0, "largest global norm of the gradient; 0: no clipping", at_least=0, at_most=FLOAT32_MAX
    ),
}

EVALUATE: Section = {
    "every": duration("1 epochs", "time between validations"),
    "batch_size": count(250, "items encoded at a time", at_most=2**20, resume=True),
    "protocol": Field(
        "full",
        "folds: mean of five equal folds of images; coco_5k, coco_1k: full and folds, only for COCO's size",
        choices=tuple(PROTOCOLS),
    ),
    "images": optional_count(0, "validate on only this many images, the first ones; 0: all"),
}

LOG: Section = {
    "wandb": Field("", "a project at Weights & Biases to send scalars to; empty: none", resume=True),
    "wandb_mode": Field(
        "online",
        "offline: store them in the run's directory, for `wandb sync`",
        choices=("online", "offline"),
        resume=True,
    ),
}

COMMON: Section = {
    "name": Field("", "name of the run in tables and figures", resume=True),
    "imports": Field(
        (), "modules that register your own loss terms, presets, encoders or data sets; imported first"
    ),
    "start": Field("", "a run, or a BERT directory, whose parameters and tokenizer this run starts with"),
    "seed": optional_count(0, "random seed of parameters, dropout and the order of the data"),
    "batch_size": count(128, "matched pairs per update, over all devices", at_most=2**24),
    "micro_batches": count(
        1, "run the encoders in this many parts; the loss still sees the full batch", at_most=65536
    ),
    "duration": duration("30 epochs", "length of the run"),
    "dtype": Field(
        "float32",
        "type in which the encoders compute; parameters and losses stay float32",
        choices=("float32", "bfloat16"),
    ),
    "precision": Field(
        "default",
        "float32 products in the encoders; default: a bfloat16 pass on TPUs, TF32 on GPUs; highest: float32",
        choices=("default", "high", "highest"),
    ),
    "dim": size(1024, "dimension of the shared embedding"),
    "ema": rate(0.0, "decay of the averaged parameters that evaluation uses; 0: no averaging"),
    "fsdp": Field(False, "split large arrays of the training state over the devices", resume=True),
    "remat": Field(
        False,
        "recompute transformer layers in the backward pass instead of storing their activations",
        resume=True,
    ),
    "patience": Field(
        600.0,
        "seconds without progress after which one of several processes stops; 0: never",
        at_least=0,
        at_most=1e9,
        resume=True,
    ),
    "log_every": count(20, "steps between two records of a run's log; the last step has one", resume=True),
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


def register_encoder_name(side: str, name: str) -> None:
    """Makes `name` a value of `config.image.name` or `config.text.name`."""
    section = {"image": IMAGE, "text": TEXT}[side]
    field = section["name"]
    if name not in field.choices:
        section["name"] = field._replace(choices=(*field.choices, name))
