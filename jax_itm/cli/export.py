"""python -m jax_itm export: writes a run as files that work without jax_itm."""

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax_itm.inference.matcher import Matcher

PARTIAL = ".partial"  # at the end of the folder's name until it is complete
HELP = "write a run as files that work without jax_itm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--workdir", required=True, help="the run's directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="stablehlo",
        help="stablehlo: programs for CPU, CUDA and TPU, and a weight file (default); huggingface: the"
        " encoders in the format of the transformers library",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the best checkpoint into a new folder, completely or not at all, and lists its files."""
    import jax_itm
    from jax_itm.inference.export.folder import check_new

    folder = check_new(args.out)
    matcher = jax_itm.load(args.workdir)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        FORMATS[args.format](matcher, partial)
    except BaseException:
        shutil.rmtree(partial)
        raise
    partial.rename(folder)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{file.stat().st_size:>12,}  {file}")
    return 0


def _stablehlo(matcher: "Matcher", folder: Path) -> None:
    from jax_itm.inference.export.folder import write_stablehlo

    write_stablehlo(matcher, folder)


def _huggingface(matcher: "Matcher", folder: Path) -> None:
    from jax_itm.methods import merge_adapters
    from jax_itm.pretrained.export_hf import TrainedRun, export_huggingface

    params = merge_adapters(matcher.params, matcher.config)
    run = TrainedRun(matcher.config, matcher.facts, params, matcher.tokenizer)
    for note in export_huggingface(run, str(folder)):
        print(note.replace(str(folder), str(folder).removesuffix(PARTIAL)))


# What --format takes: each writes a restored run into an empty folder.
FORMATS: Mapping[str, Callable[["Matcher", Path], None]] = {
    "stablehlo": _stablehlo,
    "huggingface": _huggingface,
}
