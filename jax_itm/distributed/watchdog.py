"""Several processes and one that is gone: the others stop with a line, and never wait for ever.

A process that dies breaks the collectives of the others, which is an error there. One that hangs leaves
them waiting: then the run stands still everywhere, and each process sees of itself that nothing has moved
for `config.patience` seconds. Either way a process leaves at once, without the usual goodbye, for which it
would wait for the others; the checkpoint before is whole, and the same command goes on from it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from jax_itm.errors import LOST, UserError

GOODBYE_SECONDS = 5  # for which a process that ends with an error waits for others with the same error
_moved = 0.0


class Interrupts:
    """Remembers the first Ctrl-C or SIGTERM, so that the loop can save; a second Ctrl-C is at once."""

    def __init__(self):
        self.signal = 0

    def __enter__(self) -> "Interrupts":
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, _) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: JAX's own of distributed runs


def moved() -> None:
    """Says that this process got on: a step, or a batch of an evaluation."""
    global _moved
    _moved = time.monotonic()


def alone(error: BaseException) -> bool:
    """Whether after this error a process must not wait for the others, to end a save together, say."""
    return jax.process_count() > 1 and not isinstance(error, UserError)


def _leave(status: int, line: str) -> None:
    print(f"jax_itm: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _who() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _watch(patience: float, done: threading.Event) -> None:
    while not done.wait(min(patience / 10, 1)):
        if time.monotonic() - _moved > patience:
            _leave(
                LOST,
                f"{_who()}: nothing has moved for {patience:g} s (config.patience): another process hangs or"
                " is gone; start all of them again with the same command",
            )


@contextlib.contextmanager
def together(patience: float) -> Iterator[None]:
    """Inside, an error or a standstill of one of several processes ends each of them; of one: nothing.

    Args:
        patience: seconds without `moved`, compilation included, after which a process leaves; 0: none.
    """
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    moved()
    if patience:
        threading.Thread(target=_watch, args=(patience, done), daemon=True).start()
    try:
        yield
    except (UserError, OSError) as error:
        _goodbye()
        _leave(2, str(error))
    except BaseException as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, jax.errors.JaxRuntimeError) and "gloo" not in reason.lower():
            traceback.print_exc()
            _leave(1, f"{_who()}: stopped by the error above")
        _leave(
            LOST,
            f"{_who()}: another process is gone, or its devices failed ({reason[:200]}); start all of them"
            " again with the same command",
        )
    finally:
        done.set()


def _goodbye() -> None:
    """Waits shortly for the others: the first process's end would cut off what they say of the same error."""
    from jax._src import distributed  # jax.distributed shows no client

    with contextlib.suppress(Exception):
        client: Any = distributed.global_state.client
        client.wait_at_barrier("jax_itm_goodbye", timeout_in_ms=1000 * GOODBYE_SECONDS)
