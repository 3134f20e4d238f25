"""The fields of the loss terms and of the two kinds of model.

`config.losses.NAME.weight` switches a term; the other fields are its options. Every term also has
`start` and `ramp`: it is off until `start`, and its weight rises linearly from 0 over `ramp`.
`register_loss` adds your own term.
"""

from jax_itm.config.field import (
    Field,
    Section,
    count,
    duration,
    layers,
    optional_count,
    positive,
    rate,
    size,
    weight,
)
from jax_itm.errors import UserError
from jax_itm.protocols import SCORES


def term(default_weight: float, text: str, **options: Field | Section) -> Section:
    """A loss term's section: its weight, when it starts, and its own options."""
    return {
        "weight": weight(default_weight, text),
        "start": duration("0 steps", "the term is off until then"),
        "ramp": duration("0 steps", "then its weight rises linearly from 0 to `weight` over this time"),
        **options,
    }


NEGATIVES = ("sum", "hardest", "distance_weighted", "knn")

LOSSES: dict[str, Section] = {
    "triplet": term(
        0.0,
        "hinges over negatives, summed over anchors and directions (docs/methods/contrastive.md)",
        margin=positive(0.2, "margin by which a matched pair must score higher than a negative"),
        negatives=Field("hardest", "which negatives an anchor has", choices=NEGATIVES),
        k=count(3, "knn: number of hardest negatives, whose hinges are averaged", at_most=4096),
        cutoff=Field(
            1.7,
            "distance_weighted: largest distance of a negative; 1.7 Flickr30k, 1.9 COCO, 1.414 the near half",
            above=0.5,
            at_most=2,
        ),
        sphere_dim=count(
            512, "distance_weighted: dimension of the sphere whose distance density is inverted", at_least=3
        ),
        sum_for=duration(
            "0 epochs",
            "how long to use all negatives first; with only the hardest from the start, training collapses",
        ),
    ),
    "info_nce": term(
        0.0,
        "InfoNCE in both directions (CLIP)",
        temperature=positive(0.07, "initial temperature"),
        learn_temperature=Field(True, "learn the temperature"),
        max_scale=positive(100.0, "largest inverse temperature, applied after each update as in CLIP"),
    ),
    "sigmoid": term(
        0.0,
        "the pairwise sigmoid loss (SigLIP), with a learned temperature and bias",
        temperature=positive(0.1, "initial temperature"),
        bias=Field(-10.0, "initial bias", at_least=-1e4, at_most=1e4),
        max_scale=positive(100.0, "largest inverse temperature, applied after each update"),
    ),
    "dimension": term(
        0.0,
        "DIAS: dimension information alignment (docs/methods/dias.md)",
        form=Field("ratio", "form of the objective", choices=("ratio", "infonce", "barlow", "diagonal")),
        phi=Field(
            "relu",
            "applied to the correlations in ratio and infonce",
            choices=("relu", "abs", "square", "exp"),
        ),
        samples=Field(
            "global",
            "global: pooled embeddings of the batch; attended: tokens with attended mixtures of the other"
            " side's; running: an average of the correlation over steps",
            choices=("global", "attended", "running"),
        ),
        decay=Field(0.99, "running: decay of the average", at_least=0, below=1),
        reduce=Field("mean", "mean or sum over the dimensions", choices=("mean", "sum")),
    ),
    "spatial": term(
        0.0,
        "DIAS: sparse constraints on the spatial relations of unmatched pairs",
        inter=weight(
            0.05, "weight of the relations between the modalities; 0.05 reported, 0.005 CyCLIP's ratio"
        ),
        intra=weight(0.1, "weight of the relations within each modality; 0.1 reported, 0.01 CyCLIP's ratio"),
        select_on=Field(
            "proximity",
            "what the sparse selection compares with its thresholds; none keeps all pairs",
            choices=("proximity", "distance", "discrepancy_large", "none"),
        ),
        mask=Field("hard", "hard or soft selection", choices=("hard", "soft")),
        alpha=Field(
            1.0,
            "how many standard deviations above the mean strength a pair must be",
            at_least=-100,
            at_most=100,
        ),
        learn_alpha=Field(False, "learn alpha; requires the soft mask"),
    ),
    "sampling": term(
        0.0,
        "CDDS: distribution sampling with L_s (docs/methods/cdds.md)",
        schedule=Field(
            "each_batch",
            "from which tokens S is estimated",
            choices=("each_batch", "random_features", "precomputed"),
        ),
        threshold_on=Field(
            "p", "what the thresholds are compared with; s: as printed in the paper", choices=("p", "s")
        ),
        alpha=Field(1.0, "initial alpha of the learned thresholds", at_least=-100, at_most=100),
        identity=Field(0.5, "fraction of the identity in S; 0: as in the paper", at_least=0, at_most=1),
        scope=Field("pair", "tokens among which ranks are computed", choices=("pair", "batch")),
        level=Field(
            "pooled_batch",
            "what L_s contrasts; patch_image is the printed form",
            choices=("pooled_batch", "patch_batch", "patch_image"),
        ),
        temperature=positive(0.07, "temperature of L_s"),
    ),
    "decoupling": term(
        0.0,
        "CDDS: constraints on the decoupled components; needs config.head.name='unet'",
        modality=weight(0.1, "weight of L_m"),
        fused=weight(0.5, "weight of L_f"),
        crossed=weight(0.5, "weight of L_x"),
        modality_form=Field(
            "one_minus", "form of L_m; literal is the printed form", choices=("one_minus", "literal")
        ),
    ),
}

HEAD: Section = {
    "name": Field(
        "none",
        "what follows the encoders; tokens: tokens of equal length; unet: CDDS's dual-path UNet",
        choices=("none", "tokens", "unet"),
    ),
    "layers": layers(2, "unet: layers per path"),
    "heads": size(8, "unet: attention heads of a layer"),
    "mlp": count(4, "unet: width of a layer's MLP, as a multiple of the layer's width", at_most=1024),
    "noises": optional_count(4, "unet: noise samples per token; 0: none", at_most=1024),
    "noise_scale": Field(
        0.1, "unet: scale of the noise; tokens have length sqrt(dim)", at_least=0, at_most=1e6
    ),
}

CROSS_LOSSES: dict[str, Section] = {
    "rank": term(
        1.0,
        "IAIS: hinge between sigmoids of scores (docs/methods/iais.md)",
        margin=positive(0.2, "margin between sigmoids of scores"),
    ),
    "attention_alignment": term(
        1.0,
        "IAIS: alignment of the intra-modal attentions of matched pairs",
        form=Field(
            "singular", "form of the alignment", choices=("singular", "distributed", "congruence", "none")
        ),
        singular_softmax=Field(True, "singular: apply a second softmax, to probabilities, as released"),
        schedule=Field("exp", "how the weight rises over the run", choices=("exp", "linear", "log")),
        per_update_mean=Field(False, "take the mean over a pool's anchors; the released code takes the sum"),
    ),
    "pool_softmax": term(
        0.0,
        "softmax over the pairs of a pool, in both directions, instead of rank (docs/methods/iais.md)",
    ),
    "masked_lm": term(
        0.0,
        "UNITER's masked language model: words are predicted from the image and the other words",
        share=Field(0.15, "fraction of the words to predict", above=0, below=1),
    ),
}

MINING: Section = {
    "pool": count(400, "matched pairs that share their negatives; batch_size must be a multiple of it"),
    "anchors": count(8, "anchors per pool, in each direction"),
    "hardest": count(31, "negatives per anchor, which are scored again with gradients"),
    "random_for": duration(
        "0 steps", "until then negatives are random, for training without pretrained weights"
    ),
    "tile": count(400, "pairs that are scored at once without gradients"),
    "neighbours": Field(
        "",
        "a file of `python -m jax_itm neighbours`: pools then consist of similar pairs",
        resume=True,
        per_host=True,
    ),
    "near": Field(
        0.5, "neighbours: fraction of a pool that are neighbours of its first pair", at_least=0, at_most=1
    ),
    "ramp": duration("0 steps", "neighbours: time from `random_for` until `near` is reached"),
}

UNITER: Section = {
    "hidden": size(768, "width of a layer"),
    "mlp": optional_count(0, "width of a layer's MLP; 0: four times `hidden`", at_most=2**20),
    "layers": layers(12, "number of layers"),
    "heads": size(12, "attention heads of a layer"),
    "dropout": rate(0.1, "inside the layers"),
    "init_std": positive(0.02, "standard deviation of the initial kernels"),
    "region_mlp": optional_count(
        0, "width of an MLP before the region projection; 0: none, as in UNITER", at_most=2**20
    ),
    "center_boxes": Field(False, "subtract the mean location from the boxes; UNITER does not"),
}


MATCHER: Section = {
    "hidden": size(128, "width of a layer"),
    "layers": layers(2, "number of layers"),
    "heads": size(4, "attention heads of a layer"),
    "dropout": rate(0.1, "inside the layers"),
    "late": Field(True, "add the late interaction of words and regions to the score"),
    "pooled": Field(False, "add the cosine of the encoders' embeddings to the score"),
    "frozen": Field(True, "do not train the encoders of config.start"),
}


def model_fields(model: str) -> Section:
    """The sections that only this kind of model has."""
    if model == "cross_encoder":
        return {"losses": CROSS_LOSSES, "mining": MINING, "uniter": UNITER}
    if model == "token_matcher":
        return {"losses": CROSS_LOSSES, "mining": MINING, "matcher": MATCHER}
    score = Field(
        "cosine",
        "score of an image and a text; cosine: from embeddings; maxmean and mapped: from CDDS's tokens",
        choices=SCORES,
    )
    return {"losses": LOSSES, "head": HEAD, "score": score}


LOGGED = (  # what `metrics.jsonl` holds of a training step, under train/, besides the terms
    "loss",
    "weighted",
    "gap",
    "grad_norm",
    "learning_rate",
    "step_seconds",
    "examples_per_second",
    "data_wait_fraction",
)


def register_loss(name: str, options: Section, help: str) -> None:
    """Makes `config.losses.NAME` known, with its weight, `start`, `ramp` and `options`.

    Raises:
        UserError: the name is taken by another term or by a value of the log, or is no identifier.
    """
    section = term(0.0, help, **options)
    if LOSSES.get(name, section) != section:
        raise UserError(f"config.losses.{name}: there is such a loss term already")
    if name in LOGGED:
        raise UserError(f"config.losses.{name}: the log uses this name; choose another")
    if not name.isidentifier():
        raise UserError(f"config.losses.{name}: the name of a loss term must be an identifier")
    LOSSES[name] = section
