"""Your own Linen encoders and training loop, on a mesh that splits both the batch and the model.

    python docs/examples/own_linen_loop.py

Eight devices on a CPU, 4 x 2: XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_itm import losses


class Encoder(nn.Module):
    """Any module will do that gives one vector an item."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64, name="up")(x))
        return losses.l2_normalise(nn.Dense(16, name="down")(x))


def pairs(step):
    """Images and texts of the same things, with noise of their own."""
    things, image, text = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (3, 64, 32))
    return things + 0.3 * image, things[:, ::-1] + 0.3 * text


def sharding(mesh, path):
    """The wide layer is split over the model's axis, everything else is on every device."""
    splits = {"up/kernel": (None, "model"), "up/bias": ("model",), "down/kernel": ("model", None)}
    name = "/".join(key.key for key in path[-2:])
    return NamedSharding(mesh, PartitionSpec(*splits.get(name, ())))


def main():
    model_devices = 2 if jax.device_count() % 2 == 0 else 1
    sizes = jax.device_count() // model_devices, model_devices
    mesh = jax.make_mesh(sizes, ("data", "model"), (AxisType.Auto,) * 2)  # Linen needs Auto axes
    encoder, optimizer = Encoder(), optax.adam(3e-3)

    def loss(params, images, texts):
        v = encoder.apply({"params": params["image"]}, images)
        t = encoder.apply({"params": params["text"]}, texts)
        contrast = losses.info_nce(v, t, scale=jnp.exp(params["log_scale"]), axis="data")
        return contrast + losses.dimension_alignment(v, t, axis="data")  # any terms, in any sum

    @jax.jit
    def update(params, state, images, texts):
        value, grads = jax.value_and_grad(loss)(params, images, texts)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    with jax.set_mesh(mesh):
        keys = jax.random.split(jax.random.key(1))
        init = lambda key: encoder.init(key, jnp.zeros((1, 32)))["params"]
        params = {"image": init(keys[0]), "text": init(keys[1]), "log_scale": jnp.log(10.0)}
        params = jax.tree.map_with_path(lambda path, x: jax.device_put(x, sharding(mesh, path)), params)
        state = optimizer.init(params)
        rows = NamedSharding(mesh, PartitionSpec("data"))
        for step in range(31):
            params, state, value = update(params, state, *jax.device_put(pairs(step), rows))
            if step % 10 == 0:
                print(f"step {step}: loss {value:.4f}")


if __name__ == "__main__":
    main()
