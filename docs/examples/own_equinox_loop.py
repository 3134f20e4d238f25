"""Your own Equinox encoders and training loop, with the batch split over all devices.

    pip install equinox
    python docs/examples/own_equinox_loop.py

Eight devices on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import equinox as eqx
import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jax_itm import losses


class Matcher(eqx.Module):
    """Any modules will do that give one vector an item."""

    image: eqx.nn.MLP
    text: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key)
        self.image = eqx.nn.MLP(32, 16, 64, 1, key=keys[0])
        self.text = eqx.nn.MLP(32, 16, 64, 1, key=keys[1])


def pairs(step):
    """Images and texts of the same things, with noise of their own."""
    things, image, text = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (3, 64, 32))
    return things + 0.3 * image, things[:, ::-1] + 0.3 * text


def loss(matcher, images, texts, key):
    """The whole loss of DIAS, with hard negatives drawn by their distance."""
    v = losses.l2_normalise(jax.vmap(matcher.image)(images))
    t = losses.l2_normalise(jax.vmap(matcher.text)(texts))
    return losses.dias(v, t, key=key, cutoff=1.414, axis=("replica", "dp"))


def main():
    replicas = 2 if jax.device_count() % 2 == 0 else 1
    mesh = jax.make_mesh((replicas, jax.device_count() // replicas), ("replica", "dp"))  # Explicit axes
    optimizer = optax.adam(3e-3)

    @eqx.filter_jit
    def update(matcher, state, images, texts, key):
        value, grads = eqx.filter_value_and_grad(loss)(matcher, images, texts, key)
        updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(matcher, updates), state, value

    with jax.set_mesh(mesh):
        matcher = Matcher(jax.random.key(1))
        state = optimizer.init(eqx.filter(matcher, eqx.is_inexact_array))
        rows = NamedSharding(mesh, PartitionSpec(("replica", "dp")))
        for step in range(31):
            images, texts = jax.device_put(pairs(step), rows)
            matcher, state, value = update(matcher, state, images, texts, jax.random.key(step))
            if step % 10 == 0:
                print(f"step {step}: loss {value:.4f}")


if __name__ == "__main__":
    main()
