"""The limits on what a client may request."""

import time
from collections import OrderedDict
from typing import NamedTuple

CLIENTS = 10_000  # that are remembered


class Limits(NamedTuple):
    """Limits of the server.

    Attributes:
        seconds: after which a request is given up, its upload included.
        body_bytes: of a picture's file.
        max_pixels: of a picture.
        characters: of a caption.
        top: results of a request.
        at_once: requests that are worked on or wait; together they hold `at_once * body_bytes` at most.
        rate: requests a second of one client, in the long run.
        burst: requests of one client in an instant.
    """

    seconds: float = 20.0
    body_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    characters: int = 1000
    top: int = 200
    at_once: int = 64
    rate: float = 20.0
    burst: int = 100


LIMITS = Limits()


class RateLimiter:
    """A token bucket for each client.

    Args:
        rate: tokens a second that are added.
        burst: tokens that a bucket holds.
    """

    def __init__(self, rate: float, burst: int):
        self.rate = rate
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: (tokens, when)

    def allows(self, client: str, now: float | None = None) -> bool:
        """Takes a token of a client's bucket; False where there is none.

        Args:
            client: its address.
            now: the time in seconds; that of the system's monotonic clock by default.
        """
        now = time.monotonic() if now is None else now
        tokens, when = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - when) * self.rate)
        is_allowed = tokens >= 1
        self._buckets[client] = (tokens - is_allowed, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return is_allowed
