"""What distribution sampling costs: alone, and as a share of CDDS's training step. Run by hand.

python tests/benchmarks/sampling.py [--config configs/cdds_scenes.py] [--regions 6] [--words 24] [--features 432]

The sampler is S, both sides' sorts, the map and L_s, with their gradients; the paper's own costs 0.09 s of a
batch's 0.11 s. Beside it the same batch with the naive double loop's cost is not tried: it is for tests.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from turns import turns

from jax_itm import config as config_lib
from jax_itm import optim, sampling, step
from jax_itm.methods import build
from jax_itm.models.layers import Encoded
from jax_itm.parallel import make_mesh, shard_rows

