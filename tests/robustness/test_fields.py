"""Every field of every preset, with values that it may not have or that nobody tried."""

from itertools import product

import jax
import pytest

from jax_itm.config import PRESETS, check, default, fields
from jax_itm.data.tokenizer import Tokenizer
from jax_itm.distributed.mesh import make_mesh
from jax_itm.errors import UserError
from jax_itm.methods import example_batch
from jax_itm.train.memory import need
from jax_itm.train.run import build_model
from tests.helpers.methods import FACTS, QUICK, small

HOSTILE = (
    *(None, -1, 0, 1e9, 10**9, float("nan"), float("inf"), True),
    *("", "x" * 10, "x" * 100_000, "a\0b", [], (), {}),
)


def replace(config, name, value):
    """Gives a field of an unlocked config a value of any type; returns the one that it had."""
    *sections, leaf = name.split(".")
    owner = config
    for section in sections:
        owner = owner[section]
    before = owner[leaf]
    del owner[leaf]  # or ConfigDict makes the new value one of the old one's type
    owner[leaf] = value
    return before


def refusal(config) -> str:
    """Why `config` is refused, in one line that names a field; "" if it is not."""
    try:
        check(config)
    except UserError as error:
        assert "\n" not in str(error) and "config." in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("preset", PRESETS)
def test_every_field_takes_a_value_or_refuses_it_in_one_line(preset):
    """Which of the two it is depends on the field; nothing else may happen."""
    config = default(preset).unlock()
    names = list(fields(config))
    refused = 0
    for name in names:
        for value in HOSTILE:
            before = replace(config, name, value)
            refused += bool(refusal(config))
            replace(config, name, before)
    assert refused > 8 * len(names)  # a control: most of these are nonsense for most fields
    assert not refusal(config)


# Every encoder, head and loss term is in one of them.
DUAL = {f"losses.{name}.weight": 1.0 for name in ("triplet", "info_nce", "sigmoid", "dimension", "spatial")}
STARTS = {
    "regions": ("dias", {**DUAL, "image.norm": "batch", "image.hidden": 8}),
    "pixels": ("info_nce", {"image.name": "vit", "data.modality": "pixels", "text.name": "bert"}),
    "unet": ("cdds", {**DUAL, **QUICK}),
    "matcher": ("matcher", {**QUICK, "matcher.hidden": 16}),
    "uniter": ("iais", {"losses.masked_lm.weight": 1.0}),
}


def start(config) -> None:
    """All that a run does before its first step, on shapes: nothing is compiled."""
    mesh = make_mesh(1)
    tokenizer = Tokenizer.fit(["a dog"], config.data.tokenizer)
    model = build_model(config, FACTS, tokenizer, mesh, 1000)
    jax.eval_shape(model.learning_rate, 0)
    batch = jax.eval_shape(lambda: example_batch(config, FACTS, config.batch_size))
    with jax.set_mesh(mesh):
        need(model.method, model.abstract_state, batch, mesh)


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("values", [(0,), (-1, 10**9, 1e9, "", ())], ids=["zero", "others"])
def test_a_run_can_start_with_what_is_accepted(name, values):
    """All fields that accept a value at once, except weights: at 0 they switch off what others are of."""
    preset, changes = STARTS[name]
    config = small(preset, **changes).unlock()
    for field, value in product(fields(config), values):
        before = replace(config, field, value)
        if field.endswith("weight") or refusal(config):
            replace(config, field, before)
        elif isinstance(before, float):
            replace(config, field, float(value))  # as ConfigDict does
    start(config)


def test_a_patch_is_not_larger_than_the_picture():
    config = small("info_nce", **STARTS["pixels"][1], **{"image.patch": 17})
    assert "config.image.patch=17: larger than config.data.image_size=16" in refusal(config)
