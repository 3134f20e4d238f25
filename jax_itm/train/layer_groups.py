"""The layers of an encoder's backbone in order: which are frozen, and which have a lower learning rate."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jax_itm.errors import UserError
from jax_itm.inference.token_cache import BACKBONE
from jax_itm.types import SIDES, Config


class Groups(NamedTuple):
    """The parameters of a backbone by layer.

    Attributes:
        of: {path: group}; 0 is before the layers, 1 the first layer, and so on.
        layers: how many layers there are.
    """

    of: dict[str, int]
    layers: int


def layer_groups(paths: Iterable[str], side: str) -> Groups:
    """The groups of one side's backbone.

    What follows the last layer, the last LayerNorm, is of the group after it. Swin's merging of patches is of
    the group of the layer that it precedes.

    >>> layer_groups(["text/backbone/norm", "text/backbone/layer_0/x", "text/backbone/words"], "text")
    Groups(of={'text/backbone/norm': 2, 'text/backbone/layer_0/x': 1, 'text/backbone/words': 0}, layers=1)
    """
    prefix = f"{side}/{BACKBONE}/"
    modules = {path: path.removeprefix(prefix).split("/")[0] for path in paths if path.startswith(prefix)}
    layers = sorted({_place(module) for module in modules.values() if module.startswith("layer_")})
    groups = {place: number for number, place in enumerate(layers, 1)}

    def group(module: str) -> int:
        if module == "norm":
            return len(layers) + 1
        if module.startswith("merge_"):
            return groups[_place(f"{module}_0")]
        return groups.get(_place(module), 0) if module.startswith("layer_") else 0

    return Groups({path: group(module) for path, module in modules.items()}, len(layers))


def _place(module: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", module))


def locked_paths(config: Config, paths: Iterable[str]) -> set[str]:
    """The parameters of backbones that stay as they are.

    All of a frozen backbone and of one with LoRA; with `tune_last`, all but its last so many layers; of a
    matcher on the tokens of frozen encoders, these.

    Raises:
        UserError: a backbone has not so many layers.
    """
    paths = list(paths)
    if "matcher" in config and config.matcher.frozen:
        return {path for path in paths if path.split("/")[0] in SIDES}
    locked: set[str] = set()
    for side in SIDES:
        groups, layers = layer_groups(paths, side)
        options = config[side]
        if options.frozen or options.lora.rank:
            locked |= groups.keys()
        elif options.tune_last:
            if options.tune_last >= layers:
                raise UserError(
                    f"config.{side}.tune_last={options.tune_last}: the backbone has {layers} layers"
                )
            locked |= {path for path, group in groups.items() if group <= layers - options.tune_last}
    return locked


def layer_factors(config: Config, paths: Iterable[str]) -> Mapping[str, float]:
    """The factor of `config.optimizer.layer_decay` on the learning rate of each parameter of a backbone.

    Of n layers the k-th has `decay ** (n + 1 - k)`, what precedes them k = 0, what follows them 1 (Bao
    et al., "BEiT", ICLR 2022).
    """
    decay = config.optimizer.layer_decay
    paths = list(paths)
    factors: dict[str, float] = {}
    for side in SIDES:
        groups, layers = layer_groups(paths, side)
        factors |= {path: decay ** (layers + 1 - group) for path, group in groups.items()}
    return factors
