"""python -m jax_itm serve: a local web page to search an index with."""

import argparse
import contextlib
import importlib.util
import sys
from typing import TYPE_CHECKING

from jax_itm.errors import UserError

if TYPE_CHECKING:
    import socket

HELP = "search an index in the browser, by typing a caption or dropping a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("index", help="the directory of an index that `index` built")
    parser.add_argument("--workdir", default="", help="the run's directory, only needed if the run was moved")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (127.0.0.1: only this machine can connect)",
    )
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 means any free one (8000)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Serves the page until Ctrl-C."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve: needs the package {missing[0]}: pip install -e .[serve]")
    from jax_itm.search.index import SearchIndex
    from jax_itm.serve.run import listen, make_server

    with listen(args.host, args.port) as listener:
        index = SearchIndex(args.index, args.workdir)
        if not index.is_complete:
            print(f"{args.index}: unfinished; run `python -m jax_itm index` to its end", file=sys.stderr)
        server = make_server(index, args.host)
        pictures, captions = index.store.count("picture"), index.store.count("caption")
        print(f"{pictures:,} pictures, {captions:,} captions; Ctrl-C ends it", flush=True)
        print(f"http://{_address(listener)}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
            server.run(sockets=[listener])
    return 0


def _address(listener: "socket.socket") -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
