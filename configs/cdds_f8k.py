"""CDDS on Flickr8k grid features in SCAN's layout: minutes on two cores. Arguments as `cdds_scenes.py`."""

from configs.cdds_f30k import start
from configs.cdds_scenes import ARGUMENTS, small
from configs.dias_f8k import setting
from jax_itm.config import options


def get_config(arg: str = ""):
    chosen = options(arg, **ARGUMENTS)
    config = setting(start(chosen["preset"], chosen["method"]))
    config.name, config.dim = "cdds_f8k", 128
    return small(config, chosen)
