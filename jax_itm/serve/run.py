"""Serves the application until Ctrl-C."""

import ipaddress
import socket

import uvicorn

from jax_itm.errors import UserError
from jax_itm.search.index import SearchIndex
from jax_itm.serve.app import make_app
from jax_itm.serve.limits import LIMITS, Limits

CONNECTIONS = 512  # open at once; a browser has six
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 is any free one.

    Raises:
        UserError: the address cannot be used.
    """
    if not 0 <= port < 2**16:  # getaddrinfo would take another
        raise UserError(f"--port {port}: must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"--host {host} --port {port}: no such address ({error})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # now, so that no other program can take it while the index is opened
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: cannot be used ({error}); try --port 0") from error
    return listener


def make_server(index: SearchIndex, host: str, limits: Limits = LIMITS) -> uvicorn.Server:
    """A server of an index's page; `server.run(sockets=[listen(..)])` serves until Ctrl-C.

    Args:
        index: to search; two queries are run, so that all is compiled before the first user comes.
        host: where it will listen: if this machine alone can call it, only by the names that it has here.
        limits: of what a client may ask.
    """
    hit = index.pictures_for_text("a picture", 1)[0]
    index.pictures_for_image(index.pixels(index.store.thumbnail(hit.id)), 1)
    index.captions_for_picture(hit.id, 1)
    app = make_app(index, limits, LOCAL if _is_local(host) else ("*",))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return uvicorn.Server(config)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
