"""How tests compile."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def optimised(**options: bool) -> Iterator[None]:
    """Compilation with optimisations, as users have it, and further options of JAX; afterwards as before.

    Without them XLA 0.10.2 also miscompiles sorts on some CPUs.
    """
    options = {"jax_disable_most_optimizations": False, **options}
    before = {name: jax.config.values[name] for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
