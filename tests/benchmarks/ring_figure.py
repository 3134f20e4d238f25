"""Draw docs/ring.png: memory and time of the ring against an all-gather.

python tests/benchmarks/ring_figure.py

Nothing is measured here. The numbers are those of docs/benchmarks/losses.md, which
`tests/benchmarks/similarity.py` measured: value and gradient, float32, d = 512, eight virtual devices of two
CPU cores. The hardest triplet and the sigmoid are from a run half an hour before InfoNCE's. All-gather and
PyTorch were measured at a batch of 16,384 only.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"ring": "#0072B2", "all-gather": "#D55E00", "PyTorch": "#999999"}
# global batch -> temporary MiB a device: InfoNCE
RING_MIB = {4096: 4.3, 8192: 6.3, 16384: 10.3, 32768: 18.4}
ALL_GATHER_MIB = {16384: 864.0}
# loss -> seconds at a global batch of 16,384
SECONDS = {
    "InfoNCE": {"ring": 6.41, "all-gather": 17.36, "PyTorch": 13.59},
    "hardest triplet": {"ring": 1.86, "all-gather": 12.70, "PyTorch": 16.10},
    "sigmoid": {"ring": 4.99, "all-gather": 6.69, "PyTorch": 11.50},
}


def draw_memory(axes) -> None:
    """Temporary memory of InfoNCE by global batch."""
    for form, numbers, marker in (("ring", RING_MIB, "o-"), ("all-gather", ALL_GATHER_MIB, "s")):
        axes.plot(list(numbers), list(numbers.values()), marker, color=COLOURS[form])
        for batch, mib in numbers.items():
            axes.annotate(f"{mib:g}", (batch, mib), (0, 7), textcoords="offset points", ha="center")
    axes.annotate("all-gather", (16384, 864), (-12, -4), textcoords="offset points", ha="right")
    axes.annotate("ring", (4096, 4.3), (0, -16), textcoords="offset points", ha="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(2, 2000)
    axes.set_xlim(3200, 42000)
    axes.set_xticks(list(RING_MIB), [f"{batch:,}" for batch in RING_MIB])
    axes.set_xlabel("pairs in the global batch")
    axes.set_title("InfoNCE: temporary MiB a device")


def draw_time(axes) -> None:
    """Seconds of value and gradient by loss and form."""
    for k, (form, colour) in enumerate(COLOURS.items()):
        places = [row + 0.27 * (k - 1) for row in range(len(SECONDS))]
        bars = axes.barh(places, [row[form] for row in SECONDS.values()], 0.25, color=colour, label=form)
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(range(len(SECONDS)), list(SECONDS))
    axes.invert_yaxis()
    axes.set_xlim(0, 20)
    axes.set_xlabel("seconds")
    axes.set_title("Value and gradient of 16,384 pairs")
    axes.legend(frameon=False, loc="lower right")


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    draw_memory(left)
    draw_time(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parents[2] / "docs" / "ring.png", dpi=120)


if __name__ == "__main__":
    main()
