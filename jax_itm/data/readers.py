"""Reads batches in other processes, which leave signals to the training process."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Generator
from typing import Any

import grain
from absl import flags

from jax_itm.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT_CHECK_SECONDS = 2.0


def read_in_processes(dataset: grain.IterDataset, workers: int) -> Generator[Any]:
    """The elements of a dataset, read by `workers` processes; closing the generator ends these.

    Ctrl-C, `timeout` and SLURM send a signal to the whole process group. The training process saves then, and
    needs batches until it has: so the readers ignore it, and end when the training process does.

    Raises:
        UserError: a reader ended.
    """
    if not flags.FLAGS.is_parsed():  # Grain's worker processes take settings from absl's flags
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    elements: Any = iter(dataset.mp_prefetch(options, _ignore_signals))
    try:
        # The first element starts the readers. They inherit what is blocked here, until they ignore it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            element = next(elements)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while True:
            yield element
            element = next(elements)
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        reason = " ".join(str(error).split()).partition(". Search")[0]
        raise UserError(
            f"config.data.workers={workers}: {reason}; the system may have killed it for its memory, or a"
            ' script of your own lacks `if __name__ == "__main__":`'
        ) from error
    finally:
        elements.close()


def give_memory_back() -> None:
    """Waits until the shared memory of all batches that nobody holds any more is given back.

    Grain does that in a thread of its own. Python, where it ends before that, drops what is left to do and
    says that memory has leaked.
    """
    gc.collect()  # the last batch may be part of a cycle
    with contextlib.suppress(ImportError, AttributeError):  # of Grain's own; it has no other way to wait
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

        if SharedMemoryArray._del_thread_pool:
            SharedMemoryArray._del_thread_pool.apply(int)  # one thread: this waits for all before it


def _ignore_signals(worker: int, workers: int) -> None:
    """Called in each reader before it reads."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(0)
