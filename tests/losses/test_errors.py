"""What cannot work says so in one line, which names the argument and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_itm import losses
from jax_itm.losses import Components, Sampling

V = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
TOKENS = jnp.ones((16, 3, 8))
MASK = jnp.ones((16, 3), bool)


def plain(fn):
    """The function as users have it: the tests' type checks would answer first."""
    return getattr(fn, "__wrapped__", fn)


def info_nce(images, texts=V, **inputs):
    return plain(losses.info_nce)(images, texts, scale=10.0, **inputs)


def mesh_of(kind, sizes=(4, 2), names=("rows", "model")):
    return jax.make_mesh(sizes, names, (kind,) * len(sizes))


def says(pattern):
    return pytest.raises(ValueError, match=pattern)  # users of the library need not know our own class


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
class TestMesh:
    def test_an_axis_that_the_mesh_lacks(self, kind):
        with jax.set_mesh(mesh_of(kind)):
            with says("^axis='data': the mesh has no axis 'data'; pass .* of 'rows', 'model', or a tuple"):
                info_nce(V)
            with says(r"^axis=\('rows', 'x'\): the mesh has no axis 'x'"):
                info_nce(V, axis=("rows", "x"))
            with says(r"^axis=\('rows', 'rows'\): names an axis twice"):
                info_nce(V, axis=("rows", "rows"))

    @pytest.mark.parametrize("axis", ["rows", ("model", "rows")], ids=str)
    def test_a_call_inside_a_shard_map(self, kind, axis):
        with jax.set_mesh(mesh_of(kind)):
            own = lambda v: info_nce(v, v, axis=axis)
            spec = PartitionSpec("rows")
            inside = jax.shard_map(own, in_specs=spec, out_specs=PartitionSpec(), check_vma=False)
            rows = jax.device_put(V, NamedSharding(mesh_of(kind), spec))
            with says(
                "inside a shard_map over '(rows|model)'; call the loss outside of it, on global arrays"
            ):
                jax.jit(inside)(rows)

    def test_rows_that_the_devices_do_not_divide(self, kind):
        with jax.set_mesh(mesh_of(kind)):
            with says(r"^images has 15 rows: 4 devices \(rows 4\) do not divide them"):
                info_nce(V[:15], V[:15], axis="rows")
            with says(r"^images has 15 rows: 8 devices \(model 2 x rows 4\) do not divide"):
                info_nce(V[:15], V[:15], axis=("model", "rows"))

    def test_split_arrays_without_a_mesh(self, kind):
        split = jax.device_put(V, NamedSharding(mesh_of(kind), PartitionSpec("rows")))
        line = "^(images|texts) lies on several devices, but no mesh is set: .* inside `with jax.set_mesh"
        with says(line):
            info_nce(split)
        with says(line):
            info_nce(V, split)
        with says(line):
            jax.jit(info_nce)(split)
        with says(line):
            jax.jit(lambda v: info_nce(v, split))(V)
        with says(line):
            jax.jit(jax.grad(info_nce))(split)

    def test_replicated_arrays_need_no_mesh_where_they_tell(self, kind):
        same = jax.device_put(V, NamedSharding(mesh_of(kind), PartitionSpec()))
        if kind is AxisType.Auto:
            np.testing.assert_allclose(info_nce(same), info_nce(V), rtol=1e-6)
        with says("^images lies on several devices, but no mesh is set"):
            jax.jit(info_nce)(same)


def test_a_split_array_of_another_kind_without_a_mesh():
    devices = np.array(jax.devices())
    split = jax.device_put(V, NamedSharding(jax.sharding.Mesh(devices, ("x",)), PartitionSpec("x")))
    with says("^images lies on several devices, but no mesh is set"):
        info_nce(split)


def test_shapes_that_do_not_match():
    with says(r"^images has shape \(16, 8\) and texts \(15, 8\): they must be equal, as row k"):
        info_nce(V, V[:15])
    with says(r"^images has shape \(8,\): must be \(b, d\)"):
        info_nce(V[0], V[0])
    with says(r"^image_ids has shape \(15,\): must be one number a row, \(16,\)"):
        info_nce(V, image_ids=jnp.arange(15))
    with says(r"^mask has shape \(3,\): must be one value a sample, \(16,\)"):
        plain(losses.dimension_correlation)(V, V, mask=jnp.ones(3, bool))
    tokens = plain(losses.sample_distributions)
    with says(r"^image_tokens has shape \(16, 8\): must be \(b, n, d\)"):
        tokens(V, MASK, TOKENS, MASK, thresholds=jnp.ones(2))
    with says(r"^text_mask has shape \(16, 2\): must be \(16, 3\)"):
        tokens(TOKENS, MASK, TOKENS, MASK[:, :2], thresholds=jnp.ones(2))
    with says(r"^text_tokens has shape \(15, 3, 8\): must be \(16, n, 8\), as many rows"):
        tokens(TOKENS, MASK, TOKENS[:15], MASK[:15], thresholds=jnp.ones(2))
    side = Components(TOKENS, TOKENS, TOKENS, MASK)
    with says(r"^image.semantic has shape \(16, 3, 8\) and image.modality \(16, 2, 8\)"):
        wrong = side._replace(modality=TOKENS[:, :2])
        plain(losses.decoupling_terms)(wrong, side, weights=jnp.ones(3), crossed=0.0)


OPTIONS = {
    "negatives='none': must be one of sum, hardest, distance_weighted, knn": lambda: losses.triplet(
        V, V, negatives="none"
    ),
    "k=0: must be 1 or more": lambda: losses.triplet(V, V, negatives="knn", k=0),
    "key: distance-weighted negatives are drawn": lambda: losses.triplet(V, V, negatives="distance_weighted"),
    "key: rbg of shape \\(\\); distance-weighted negatives need a single threefry key": lambda: (
        losses.triplet(V, V, negatives="distance_weighted", key=jax.random.key(0, impl="rbg"))
    ),
    "form='sum': must be one of ratio": lambda: losses.dimension_alignment(V, V, form="sum"),
    "phi='tanh': must be one of relu": lambda: losses.dimension_alignment(V, V, phi="tanh"),
    "reduce='max': must be one of mean, sum": lambda: losses.dimension_alignment(V, V, reduce="max"),
    "select_on='all': must be one of proximity": lambda: losses.spatial_constraint(V, V, select_on="all"),
    "mask='none': must be one of hard, soft": lambda: losses.spatial_constraint(V, V, mask="none"),
    "plan.schedule='rings': must be one of auto, ring, gather": lambda: info_nce(
        V, plan=losses.Plan("rings")
    ),
    "plan.dtype='float16': must be one of float32, tf32, bfloat16": lambda: info_nce(
        V, plan=losses.Plan(dtype="float16")
    ),
    "plan.tile=-1: must be 0 or more": lambda: info_nce(V, plan=losses.Plan(tile=-1)),
    "options.level='token': must be one of": lambda: losses.distribution_sampling(
        TOKENS, MASK, TOKENS, MASK, thresholds=jnp.ones(2), options=Sampling(level="token")
    ),
    "key: the schedule 'random_features' draws tokens": lambda: losses.distribution_sampling(
        TOKENS, MASK, TOKENS, MASK, thresholds=jnp.ones(2), options=Sampling("random_features")
    ),
    "sampled: L_x needs": lambda: losses.decoupling(
        *[Components(TOKENS, TOKENS, TOKENS, MASK)] * 2, weights=jnp.ones(3)
    ),
}


@pytest.mark.parametrize("line", list(OPTIONS))
def test_options(line):
    with says("^" + line):
        OPTIONS[line]()
