"""The error for a user's mistakes, and how names are listed in it."""

import re
from collections.abc import Iterable

MAX_MESSAGE = 1000  # characters of an error message

# Fields that make a training step need less memory, the cheapest first.
LESS_MEMORY = (
    "config.remat=True, config.micro_batches=2 or more, config.fsdp=True, or a smaller config.batch_size"
)

LOST = 75  # exit status of a process that has lost another: sysexits' "temporary failure, try again"


class UserError(Exception):
    """An error that the user can cause and mend: one line that names the field, file or value.

    The command prints it without a traceback and exits with status 2. What it quotes of a file may contain
    anything: characters that do not print, such as line breaks and terminal control sequences, are shown as
    escape codes, and the middle of a long message is left out.

    Attributes:
        status: the exit status of the command.
    """

    status = 2

    def __init__(self, message: str):
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(text) > MAX_MESSAGE:
            text = f"{text[: MAX_MESSAGE // 2]} .. {text[-MAX_MESSAGE // 2 :]}"
        super().__init__(text)


class ArgumentError(UserError, ValueError):
    """An argument of a library function that cannot work; library users catch it as a ValueError."""


class PeerTimeout(UserError):
    """Another process did not show up in time: the same command may succeed when it is run again."""

    status = LOST


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for an error message: the first few, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def memory_shortage(message: str) -> str:
    """How much memory a program needs of how much there is, "21.2G of 15.75G", in a TPU compiler's error.

    "" if the message does not say.
    """
    amount = r"([\d.]+[KMGT]?)"
    used = re.search(rf"Used {amount} of {amount} hbm", message) or re.search(
        rf"HLO temporaries \({amount}\) exceeds available HBM \({amount}\)", message
    )
    return f"{used[1]} of {used[2]}" if used else ""
