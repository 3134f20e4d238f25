"""Each method's terms on each base loss, the same run with and without them, on Flickr8k's grid features.

    python -m jax_itm prepare --encode --config configs/study_f8k.py --config.data.source=FOLDER
    python -m jax_itm study configs/evidence_f8k.py --jobs 2 [--rows sigmoid,sigmoid-spatial,..]

Words are MiniLM's, frozen, and the budget is that of the long rows of `study_f8k.py`: the encoders overfit
6,000 images then, which is where a constraint can help. Rows of one base differ in `config.losses` and
`config.head` alone. Trials are chosen on dev, with the first seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.study_f8k import LONG, shared
from jax_itm.study import Row, Study

BATCH = LONG["batch_size"]
BASES = {  # config, and the rate that was chosen for it
    "sigmoid": ("configs/contrastive_f8k.py:method=sigmoid", {"optimizer.lr": 6e-3}),
    "info_nce": ("configs/contrastive_f8k.py:method=info_nce", {"optimizer.lr": 6e-3}),
    "triplet": ("configs/contrastive_f8k.py:method=vsepp", {"optimizer.lr": 4e-3}),
}
EARLY = {"start": "1 epochs", "ramp": "1 epochs"}
LATE = {"start": "6 epochs", "ramp": "3 epochs"}  # once the encoders overfit


def spatial(weight: float, select_on: str = "none", when: Mapping[str, str] = EARLY) -> dict[str, Any]:
    """L_inter and L_intra, `weight` a pair of a row each: a mean over rows, as the base losses are."""
    fields = {"weight": weight, "inter": 1 / BATCH, "intra": 1 / BATCH, "select_on": select_on, **when}
    return {f"losses.spatial.{name}": value for name, value in fields.items()}


def dimension(weight: float, form: str = "barlow", when: Mapping[str, str] = EARLY) -> dict[str, Any]:
    """L_dim on a running correlation: a batch has fewer pairs than dimensions."""
    fields = {"weight": weight, "form": form, "samples": "running", **when}
    return {f"losses.dimension.{name}": value for name, value in fields.items()}


def sampling(weight: float) -> dict[str, Any]:
    """CDDS's distribution sampling as a light term."""
    return {"losses.sampling.weight": weight}


TERMS: dict[str, Sequence[Mapping[str, Any]]] = {  # name -> its trials
    "": [{}],
    "dimension": [dimension(0.03), dimension(0.1), dimension(1.0)],
    "spatial": [spatial(1.0), spatial(0.25), spatial(1.0, when=LATE)],
    "dias": [spatial(0.25, select) | dimension(0.03) for select in ("none", "proximity")],
    "sampling": [sampling(0.1)],
}


def get_study():
    rows = [
        Row(
            f"{base}-{term}".rstrip("-"),
            config,
            trials,
            fields=shared() | LONG | fields,
            base=base if term else "",
        )
        for base, (config, fields) in BASES.items()
        for term, trials in TERMS.items()
    ]
    return Study(rows, split="dev")
