"""DIAS's terms on the generated scenes, one by one: which does what.

python -m jax_itm prepare scenes
python -m jax_itm study configs/ablation_scenes.py --jobs 2
"""

from jax_itm.study import Row, Study

CONFIG = "configs/dias_scenes.py"
OFF = {"losses.dimension.weight": 0.0, "losses.spatial.weight": 0.0}
ROWS = {
    "triplet": OFF,
    "dimension": {"losses.spatial.weight": 0.0},
    "inter": {"losses.dimension.weight": 0.0, "losses.spatial.intra": 0.0},
    "intra": {"losses.dimension.weight": 0.0, "losses.spatial.inter": 0.0},
    "dense": {"losses.spatial.select_on": "none"},
    "full": {},
}


def get_study():
    base = lambda name: "" if name == "triplet" else "triplet"
    rows = [Row(name, CONFIG, fields=fields, base=base(name)) for name, fields in ROWS.items()]
    return Study(rows, split="test")
