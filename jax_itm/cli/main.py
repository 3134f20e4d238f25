"""The command line: python -m jax_itm COMMAND."""

import argparse
import os
import select
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from signal import SIGPIPE
from typing import Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

from absl import logging

from jax_itm.cli import (
    attention,
    compare,
    compile,
    config,
    convert,
    describe,
    evaluate,
    export,
    index,
    neighbours,
    prepare,
    report,
    search,
    semantics,
    serve,
    study,
    train,
)
from jax_itm.distributed.offline import without_tpu
from jax_itm.errors import LESS_MEMORY, UserError, memory_shortage

STDOUT = 1  # its file descriptor


class Command(Protocol):
    """What the module of a command provides."""

    @property
    def HELP(self) -> str:
        """What the command does, in a line."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the arguments of the command."""
        ...

    def run(self, args: argparse.Namespace, overrides: list[str]) -> int:
        """Runs the command with the parsed arguments and the `--config.x=y` options; its exit status."""
        ...


COMMANDS: dict[str, Command] = {
    "prepare": prepare,
    "describe": describe,
    "config": config,
    "compile": compile,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "index": index,
    "search": search,
    "serve": serve,
    "report": report,
    "attention": attention,
    "semantics": semantics,
    "convert": convert,
    "neighbours": neighbours,
    "export": export,
    "study": study,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; a UserError becomes one line and its exit status."""
    without_tpu()
    parser = _parser()
    given = sys.argv[1:] if argv is None else argv
    # argparse would take a field whose value holds a space for a positional argument.
    fields = [option for option in given if option.startswith("--config.")]
    args, unknown = parser.parse_known_args([option for option in given if option not in fields])
    if not getattr(args, "config", None):
        unknown = fields + unknown
    if unknown:
        parser.error(f"{unknown[0]}: not an option of {args.command}")
    # Pillow warns of pictures that are refused right afterwards.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit", RuntimeWarning)
    warnings.filterwarnings("ignore", ".*EXIF", UserWarning)  # of pictures that show without it
    # Orbax warns of what is intended here, and logs the traceback of what it raises.
    logging.set_verbosity(logging.ERROR if args.debug else logging.FATAL)
    try:
        with progress_of(args.command):
            status = COMMANDS[args.command].run(args, fields)
        sys.stdout.flush()
        return status
    except (UserError, OSError) as error:  # OSError: a full disk, a directory without write permission
        if args.debug:
            raise
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return 128 + SIGPIPE
        print(f"jax_itm: {error}", file=sys.stderr)
        return error.status if isinstance(error, UserError) else 2
    except RuntimeError as error:  # JAX's own kind of it
        if args.debug or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"jax_itm: {_out_of_memory(str(error))}", file=sys.stderr)
        return 2


def nobody_reads() -> bool:
    """Whether what reads the output has ended, such as `head`; other pipes may break, too."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    ended = any(event & select.POLLERR for _, event in poll.poll(0))
    if ended:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # the interpreter flushes once more
    return ended


def progress_of(command: str) -> AbstractContextManager[None]:
    """Shows how far a command is; training says so itself."""
    if command in ("train", "study"):
        return nullcontext()
    from jax_itm.progress import shown

    return shown()


def _out_of_memory(message: str) -> str:
    """What to do where a program does not fit into a device, in one line."""
    shortage = memory_shortage(message)
    amount = f" ({shortage})" if shortage else ""
    return (
        f"a device has too little memory{amount}: set {LESS_MEMORY}; python -m jax_itm compile tells"
        " beforehand"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jax_itm", description="Image-text matching in JAX; each COMMAND has its own --help."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    return parser
