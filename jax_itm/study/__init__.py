"""A study: rows of runs, each with its trials on one seed and its best trial on the others, in one table.

    python -m jax_itm study configs/study_f8k.py [--out runs/study_f8k] [--jobs 2] [--rows dias] [--seeds 0,1]

The file's `get_study()` gives a `Study`. A run is the two commands that a person would type, `train` and
`evaluate`, so each can be looked into, resumed and reported alone. Each that ends adds a line of JSON to
`OUT/runs.jsonl`; what has its line is not run again. `OUT/table.md` and `OUT/table.png` are the end, and
`OUT/differences.png` where rows name their base.
"""

from jax_itm.study.plan import Row, Search, Study, parse_numbers
from jax_itm.study.run import run_study

__all__ = ["Row", "Search", "Study", "parse_numbers", "run_study"]
