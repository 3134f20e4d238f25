"""IAIS's alignments on the generated scenes, each from the same start.

python -m jax_itm prepare scenes
python -m jax_itm study configs/ablation_iais_scenes.py --jobs 2
"""

from jax_itm.study import Row, Study

CONFIG = "configs/iais_scenes.py"


def get_study():
    rows = [Row("start", f"{CONFIG}:part=start", shown=False)]
    for form in ("none", "singular", "distributed", "congruence"):
        rows.append(Row(form, f"{CONFIG}:start={{start}},alignment={form}", isd=True))
    return Study(rows, split="test", protocol="folds")
