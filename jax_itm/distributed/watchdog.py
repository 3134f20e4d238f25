"""If one of several processes is lost, the others end with one line instead of waiting forever.

A process that dies breaks the collectives of the others, which raises an error there. One that hangs leaves
them waiting: the whole run hangs, and each process notices that it has had no heartbeat for
`config.patience` seconds. In both cases a process exits at once, without the usual shutdown, which would wait
for the others. The last complete checkpoint stays valid, and the same command resumes from it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import jax

from jax_itm.distributed.cluster import is_single_process
from jax_itm.errors import LOST, UserError

BARRIER_SECONDS = 5  # for which a process that ends with an error waits for others with the same error
RESTART = "start all processes again with the same command"

_last_heartbeat = 0.0


class StopSignal:
    """Catches the first Ctrl-C or SIGTERM so that the run can save; a second Ctrl-C interrupts at once.

    Only the main thread of a process can catch signals: in another thread it catches none.

    Attributes:
        number: of the signal; 0 while there was none.
    """

    def __init__(self):
        self.number = 0
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> "StopSignal":
        is_main_thread = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if is_main_thread else ():
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: JAX's own in distributed runs


def heartbeat() -> None:
    """Records that this process has made progress: a step, or a batch of an evaluation."""
    global _last_heartbeat
    _last_heartbeat = time.monotonic()


def others_may_be_lost(error: BaseException) -> bool:
    """Whether, after `error`, this process must not wait for the others, for example to finish a save."""
    return not is_single_process() and not isinstance(error, UserError)


@contextlib.contextmanager
def watchdog(patience: float) -> Iterator[None]:
    """If one of several processes fails or hangs inside, all of them end. A single process is not watched.

    Args:
        patience: seconds without a `heartbeat`, compilation included, after which a process exits; 0 waits
            for ever.
    """
    if is_single_process():
        yield
        return
    done = threading.Event()
    heartbeat()
    if patience:
        threading.Thread(target=_watch, args=(patience, done), daemon=True).start()
    try:
        yield
    except (UserError, OSError) as error:
        _wait_for_equal_errors()
        _exit(2, str(error))
    except BaseException as error:
        _exit_after(error)
    finally:
        done.set()


def _watch(patience: float, done: threading.Event) -> None:
    while not done.wait(min(patience / 10, 1)):
        if time.monotonic() - _last_heartbeat > patience:
            _exit(
                LOST,
                f"{_name()}: no progress for {patience:g} s (config.patience): another process hangs or is"
                f" lost; {RESTART}",
            )


def _exit_after(error: BaseException) -> NoReturn:
    """Ends the process: another one is lost if a collective failed; otherwise the error is our own."""
    reason = " ".join(str(error).split())
    if isinstance(error, jax.errors.JaxRuntimeError) or "gloo" in reason.lower():
        _exit(LOST, f"{_name()}: another process is lost, or its devices failed ({reason[:200]}); {RESTART}")
    traceback.print_exc()
    _exit(1, f"{_name()}: stopped by the error above")


def _exit(status: int, message: str) -> NoReturn:
    print(f"jax_itm: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _name() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _wait_for_equal_errors() -> None:
    """Waits briefly for the others: after the first exit they cannot report the same error any more."""
    from jax._src import distributed  # jax.distributed exposes no client

    with contextlib.suppress(Exception):
        client: Any = distributed.global_state.client
        client.wait_at_barrier("jax_itm_exit", timeout_in_ms=1000 * BARRIER_SECONDS)
