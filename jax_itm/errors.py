"""The one error that a user may meet, and how names are listed in it."""

from collections.abc import Iterable

LONGEST = 1000  # letters of an error


LOST = 75  # exit status of a process that misses another: sysexits' "temporary failure, try again"


class UserError(Exception):
    """An error that the user can cause and mend: one line naming the field, file or value.

    The command prints it without a traceback and exits with status 2. What it quotes of a file may hold
    anything: letters that do not print, such as line breaks and a terminal's commands, are told by their
    codes, and the middle of a long line is left out.

    Attributes:
        status: the exit status.
    """

    status = 2

    def __init__(self, message: str):
        told = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(told) > LONGEST:
            told = f"{told[: LONGEST // 2]} .. {told[-LONGEST // 2 :]}"
        super().__init__(told)


class Missing(UserError):
    """Another process was not there in time: the same command may succeed later, as launchers try."""

    status = LOST


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for an error: the first few, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
