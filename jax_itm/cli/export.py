"""python -m jax_itm export: a run as files that need no jax_itm."""

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax_itm.inference.matcher import Matcher

HELP = "write a run as files that need no jax_itm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="stablehlo",
        help="stablehlo: programs for CPU, CUDA and TPU with weights beside them (default)",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the best checkpoint into a new folder, completely or not at all, and lists its files."""
    import jax_itm
    from jax_itm.inference.export.folder import check_new

    folder = check_new(args.out)
    matcher = jax_itm.load(args.workdir)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    FORMATS[args.format](matcher, partial)
    partial.rename(folder)
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file}")
    return 0


def _stablehlo(matcher: "Matcher", folder: Path) -> None:
    from jax_itm.inference.export.folder import write_stablehlo

    write_stablehlo(matcher, folder)


# What --format takes: each writes a restored run into an empty folder.
FORMATS: Mapping[str, Callable[["Matcher", Path], None]] = {"stablehlo": _stablehlo}
