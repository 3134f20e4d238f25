"""A process's memory, for the benchmarks beside this file."""

from pathlib import Path


def resident(field: str, process: int | str = "self") -> float:
    """MiB of a line of /proc/PROCESS/status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak(call) -> float:
    """MiB by which the process grew at most during a call."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before
