"""What each preset changes: the loss terms of a method, as fields.

`default("dias")` is every field's default with these on top. Each is a starting point: any term may be
switched on or off, and any option changed, on top of any preset.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

DUAL = "dual_encoder"
CROSS = "cross_encoder"
TOKENS = "token_matcher"


class Preset(NamedTuple):
    """The kind of model, and the fields that differ from their defaults."""

    model: str
    fields: Mapping[str, Any]
    source: str


PRESETS: dict[str, Preset] = {
    "vsepp": Preset(
        DUAL,
        {"losses.triplet.weight": 1.0, "losses.triplet.sum_for": "1 epochs"},
        "Faghri et al., BMVC 2018: hardest negatives after a first epoch on all of them",
    ),
    "info_nce": Preset(DUAL, {"losses.info_nce.weight": 1.0}, "Radford et al., 2021 (CLIP)"),
    "sigmoid": Preset(DUAL, {"losses.sigmoid.weight": 1.0}, "Zhai et al., 2023 (SigLIP)"),
    "dias": Preset(
        DUAL,
        {
            "losses.triplet.weight": 1.0,
            "losses.triplet.negatives": "distance_weighted",
            "losses.dimension.weight": 10.0,
            "losses.spatial.weight": 1.0,
        },
        "Ma et al., ACM MM 2024, a reconstruction: the reported weights 1, 10, 0.05 and 0.1",
    ),
    "cdds": Preset(
        DUAL,
        {
            "losses.sampling.weight": 1.0,
            "losses.decoupling.weight": 1.0,
            "head.name": "unet",
            "score": "maxmean",
            "image.pooling": "mean",
            "text.pooling": "mean",
        },
        "Ma et al., AAAI 2026, with half of the identity in S (`practical`)",
    ),
    "matcher": Preset(
        TOKENS,
        {
            "batch_size": 64,
            "losses.rank.weight": 0.0,
            "losses.pool_softmax.weight": 1.0,
            "losses.attention_alignment.form": "none",
            "mining.pool": 8,
            "mining.anchors": 8,
            "mining.hardest": 7,
        },
        "Li et al., NeurIPS 2021 (ALBEF): a matcher on the tokens of a dual encoder, config.start",
    ),
    "iais": Preset(CROSS, {"batch_size": 400}, "Ren et al., ACL 2021: UNITER base and the released training"),
}
