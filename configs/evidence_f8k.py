"""Each method's terms on each base loss, the same run with and without them, on Flickr8k's grid features.

    python -m jax_itm prepare --encode --config configs/study_f8k.py --config.data.source=FOLDER
    python -m jax_itm study configs/evidence_f8k.py --jobs 2 [--rows triplet,triplet-dias,..]

Words are MiniLM's, frozen; the budget is that of `study_f8k.py` (four epochs), in rows called "long" that of
its long rows: the encoders overfit 6,000 images then, which is where a constraint can help. The words of the
rows called "bigru" are learned. Rows of one base differ in `config.losses` alone; "ema" averages parameters.
Trials are chosen on dev, with the first seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.study_f8k import LONG, shared
from jax_itm.study import Row, Study

FROM_2 = {"start": "1 epochs", "ramp": "1 epochs"}
FROM_3 = {"start": "2 epochs", "ramp": "1 epochs"}  # an epoch after the triplet's hardest negatives
LATE = {"start": "6 epochs", "ramp": "3 epochs"}  # once the encoders overfit
CONTRASTIVE = "configs/contrastive_f8k.py:method="
SHORT = shared() | {"batch_size": 128, "optimizer.lr": 4e-3}
BASES: dict[str, tuple[str, dict[str, Any]]] = {  # config and budget, with the rate that was chosen for it
    "triplet": (f"{CONTRASTIVE}vsepp", SHORT),
    "info_nce": (f"{CONTRASTIVE}info_nce", SHORT),
    "sigmoid": (f"{CONTRASTIVE}sigmoid", SHORT),
    "sigmoid-long": (f"{CONTRASTIVE}sigmoid", shared() | LONG | {"optimizer.lr": 6e-3}),
    "bigru": ("configs/cdds_f8k.py:method=info_nce", {}),
}
Trial = dict[str, Any]


def spatial(inter: float, intra: float, select_on: str = "none", when: Mapping[str, str] = FROM_2) -> Trial:
    """L_inter and L_intra, dense or sparse."""
    fields = {"weight": 1.0, "inter": inter, "intra": intra, "select_on": select_on, **when}
    return {f"losses.spatial.{name}": value for name, value in fields.items()}


def dimension(weight: float, when: Mapping[str, str] = FROM_2) -> Trial:
    """L_dim on a running correlation: a batch has fewer pairs than dimensions."""
    fields = {"weight": weight, "form": "barlow", "samples": "running", **when}
    return {f"losses.dimension.{name}": value for name, value in fields.items()}


def dias(inter: float, intra: float, weight: float, when: Mapping[str, str] = FROM_2) -> Trial:
    """Its terms: L_inter and L_intra of the proximity selection, and L_dim."""
    return spatial(inter, intra, "proximity", when) | dimension(weight, when)


def terms(base: str) -> dict[str, Sequence[Trial]]:
    """Name -> trials. The triplet loss is a sum over pairs and the others are means over rows, so one weight
    has another effect on each; `inter` and `intra` have CyCLIP's ratio to the base (docs/methods/dias.md)."""
    sampling = [{"losses.sampling.weight": 0.1}]
    if base == "bigru":
        return {"": [{}], "sampling": sampling}
    if base == "sigmoid-long":
        row = 1 / LONG["batch_size"]
        weights = [spatial(row, row), spatial(row / 4, row / 4), spatial(row, row, when=LATE)]
        return {
            "": [{}],
            "spatial": weights,
            "dias": [dias(row / 4, row / 4, 0.03)],
            "ema": [{"ema": 0.995}],
        }
    row = 1 / SHORT["batch_size"]
    inter, intra, weight = (0.005, 0.01, 4.0) if base == "triplet" else (row / 4, row / 4, 0.03)
    trials = [dias(inter, intra, weight, when) for when in (FROM_2, FROM_3)]
    return {"": [{}], "dias": trials, "sampling": sampling}


def get_study():
    rows = [
        Row(
            f"{base}-{term}".rstrip("-"),
            config,
            trials,
            fields=fields,
            base=base if term else "",
        )
        for base, (config, fields) in BASES.items()
        for term, trials in terms(base).items()
    ]
    return Study(rows, split="dev")
