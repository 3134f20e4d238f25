"""A running `serve`: latency of single requests and of fifty at once, and its memory.

    python tests/benchmarks/serve.py http://127.0.0.1:8000 PID PICTURE CAPTIONS.txt

PID is the server's process; PICTURE is uploaded; CAPTIONS has one a line. All answers to the same question
must be equal. The server's rate limit holds here, too: more than 20 requests a second for long are refused.
"""

import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np

AT_ONCE = 50
PAUSE = 6.0  # seconds, in which the rate limit allows a hundred requests again


def call(url: str, body: bytes | None = None) -> tuple[float, bytes]:
    """Milliseconds, and the answer."""
    start = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        contents = answer.read()
    return 1000 * (time.perf_counter() - start), contents


def memory(pid: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":") for line in lines if line.startswith(("VmRSS", "VmHWM")))
    now, peak = (int(sizes[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return f"{now:,.0f} MiB, at most {peak:,.0f} MiB"


def say(label: str, milliseconds: list[float]) -> None:
    middle, high = np.percentile(milliseconds, [50, 99])
    print(
        f"{label:34s} {len(milliseconds):4d} requests   p50 {middle:7.1f} ms   p99 {high:7.1f} ms", flush=True
    )


def main() -> None:
    url, pid, picture, captions = sys.argv[1:]
    body = Path(picture).read_bytes()
    texts = Path(captions).read_text().splitlines()[:AT_ONCE]
    kinds: dict[str, Callable[[int], tuple[float, bytes]]] = {
        "caption": lambda k: call(f"{url}/api/pictures?text={quote(texts[k % len(texts)])}"),
        "picture": lambda k: call(f"{url}/api/pictures", body),
    }
    print("memory before:", memory(pid))
    for name, ask in kinds.items():
        alone = [ask(k) for k in range(AT_ONCE)]
        say(f"{name}, one after the other", [ms for ms, _ in alone])
        time.sleep(PAUSE)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(ask, range(AT_ONCE)))
        say(f"{name}, {AT_ONCE} at once", [ms for ms, _ in answers])
        assert [answer for _, answer in answers] == [answer for _, answer in alone], "answers differ"
        time.sleep(PAUSE)
    print("memory after:", memory(pid))


if __name__ == "__main__":
    main()
