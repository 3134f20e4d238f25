"""CDDS's parts on the generated scenes, as in the paper's ablation, next to a plain contrast.

python -m jax_itm prepare scenes
python -m jax_itm study configs/ablation_cdds_scenes.py --jobs 2
python -m jax_itm semantics runs/ablation_cdds_scenes/practical/0-0 --out semantics.png
"""

from configs.cdds_f30k import ABLATIONS
from jax_itm.study import Row, Study

CONFIG = "configs/cdds_scenes.py"


def get_study():
    rows = [Row("info_nce", f"{CONFIG}:method=info_nce")]
    rows += [Row(preset, f"{CONFIG}:preset={preset}") for preset in ("practical", "paper")]
    rows += [Row(f"without-{part}", f"{CONFIG}:without={part}") for part in ABLATIONS]
    return Study(rows, split="test")
