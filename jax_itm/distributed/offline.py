"""Sets up libtpu to compile on machines without a TPU. Imports nothing, so it can be called first."""

import glob
import os

# libtpu asks for these on a machine without a TPU; any single host will do.
OFFLINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


def without_tpu() -> None:
    """Where there is no TPU, tells libtpu so: it then loads, and without a page of complaints."""
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        return
    for variable, value in OFFLINE.items():
        os.environ.setdefault(variable, value)
