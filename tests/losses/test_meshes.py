"""Every loss under any mesh, with Auto and Explicit axes and in half precision, equals that of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_itm import losses
from jax_itm.losses import Components, Plan, Sampling

B, D = 16, 8
IDS = jnp.arange(B).at[jnp.array([1, 5])].set(0)
MESHES = [  # sizes, names, the axis of the batch
    ((8,), ("dp",), "dp"),
    ((2, 4), ("data", "fsdp"), ("data", "fsdp")),
    ((2, 4), ("data", "fsdp"), ("fsdp", "data")),
    ((4, 2), ("data", "fsdp"), "data"),
    ((2, 2, 2), ("replica", "data", "model"), ("replica", "data")),
]


def inputs():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    v, t = rng.normal(size=(2, B, D))
    regions, words = unit(rng.normal(size=(B, 5, D))), unit(rng.normal(size=(B, 7, D)))
    return tuple(jnp.asarray(x, jnp.float32) for x in (unit(v), unit(t + 0.7 * v), regions, words))


R_MASK = jnp.arange(5) < jnp.asarray(np.random.default_rng(1).integers(1, 6, (B, 1)))
W_MASK = jnp.arange(7) < jnp.asarray(np.random.default_rng(2).integers(1, 8, (B, 1)))


def terms(axis, plan=Plan("ring")):  # noqa: B008
    """{name: function of (images, texts, regions, words)}, each with a gradient."""
    rows = {"image_ids": IDS, "axis": axis, "plan": plan}
    draws = {"key": jax.random.key(0), "sphere_dim": 8}
    ones = jnp.ones((2,))

    def sampling(v, t, r, w):
        options = Sampling(schedule="random_features", level="patch_batch")
        arguments = {"thresholds": 0.5 * ones, "options": options, "key": jax.random.key(1)}
        return losses.distribution_sampling(r, R_MASK, w, W_MASK, **arguments, **rows)

    def cdds(v, t, r, w):
        image, text = Components(r, r[:, ::-1], -r, R_MASK), Components(w, w[:, ::-1], -w, W_MASK)
        return losses.cdds(image, text, thresholds=0.5 * ones, weights=jnp.ones((3,)), **rows)

    def attended(v, t, r, w):
        images, texts, mask = losses.attended_pairs(r, R_MASK, w, W_MASK, axis=axis)
        return losses.dimension_alignment(images, texts, mask=mask, axis=axis)

    return {
        "info_nce": lambda v, t, *_: losses.info_nce(v, t, scale=10.0, **rows),
        "sigmoid": lambda v, t, *_: losses.sigmoid(v, t, scale=10.0, bias=-4.0, **rows),
        "hardest": lambda v, t, *_: losses.triplet(v, t, **rows),
        "knn": lambda v, t, *_: losses.triplet(v, t, negatives="knn", **rows),
        "dias": lambda v, t, *_: losses.dias(v, t, key=jax.random.key(0), **rows),
        "drawn": lambda v, t, *_: losses.triplet(v, t, negatives="distance_weighted", **draws, **rows),
        "soft": lambda v, t, *_: losses.spatial_constraint(v, t, mask="soft", **rows),
        "sampling": sampling,
        "cdds": cdds,
        "attended": attended,
    }


def measured(axis, arrays, plan=Plan("ring")):  # noqa: B008
    """Values and gradients of all terms, in one program."""

    def run(*arrays):
        return {name: jax.value_and_grad(of, (0, 1, 2, 3))(*arrays) for name, of in terms(axis, plan).items()}

    return jax.device_get(jax.jit(run)(*arrays))


@pytest.fixture(scope="module")
def alone():
    return measured("data", inputs())


def apart(one, other):
    """The largest difference, in units of the largest number."""
    return float(np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-6))


def of_images(alone):
    value, grads = alone["info_nce"]
    return {"info_nce": (value, grads[:1])}


def agree(actual, alone, values=1e-6, gradients=3e-7):
    for name, (value, grads) in actual.items():
        assert apart(value, alone[name][0]) < values, name
        for grad, expected in zip(grads, alone[name][1], strict=True):
            loose = 10 if name in ("soft", "sampling", "cdds") else 1  # divided by a temperature of 0.02
            loose = 2 if name == "attended" else loose  # 3.2e-7 on one kind of EPYC
            assert apart(grad, expected) < loose * gradients, name


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(("sizes", "names", "axis"), MESHES, ids=str)
def test_equal_to_one_device(sizes, names, axis, kind, alone):
    mesh = jax.make_mesh(sizes, names, (kind,) * len(sizes))
    with jax.set_mesh(mesh):
        rows = jax.device_put(inputs(), NamedSharding(mesh, PartitionSpec(axis)))
        agree(measured(axis, rows), alone)


def test_arrays_that_are_split_otherwise_are_moved(alone):
    """Explicit axes, and the model's axis splits the features: the gradient is split as its array is."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, PartitionSpec(None, "model"))
        v, t, *_ = jax.device_put(inputs()[:2], sharding)
        value = jax.jit(jax.value_and_grad(lambda v: losses.info_nce(v, t, scale=10.0, image_ids=IDS)))
        actual, grad = value(v)
        assert grad.sharding.is_equivalent_to(sharding, 2)
    agree({"info_nce": (actual, (np.asarray(grad),))}, of_images(alone))


def test_inside_a_shard_map_over_another_axis(alone):
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Auto,) * 2)
    spec = PartitionSpec()

    def own(v, t):
        return jax.value_and_grad(lambda v: losses.info_nce(v, t, scale=10.0, image_ids=IDS))(v)

    with jax.set_mesh(mesh):
        inner = jax.shard_map(own, in_specs=spec, out_specs=spec, axis_names={"model"}, check_vma=False)
        value, grad = jax.device_get(jax.jit(inner)(*inputs()[:2]))
    agree({"info_nce": (value, (grad,))}, of_images(alone))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_cast_once(dtype):
    """The loss is that of the same numbers in float32; gradients are rounded once, to the inputs' type."""
    half = tuple(x.astype(dtype) for x in inputs())
    actual = measured("data", half)
    expected = measured("data", tuple(x.astype(jnp.float32) for x in half))
    for name, (value, grads) in actual.items():
        assert value.dtype == np.float32, name
        np.testing.assert_allclose(value, expected[name][0], rtol=1e-6)
        for grad, wide in zip(grads, expected[name][1], strict=True):
            assert grad.dtype == dtype, name
            rounded = wide.astype(dtype).astype(np.float32)
            np.testing.assert_allclose(grad.astype(np.float32), rounded, rtol=2e-2, atol=1e-3)
