"""The web application: a page, its requests to the index, and thumbnails.

Requests name pictures by their number in the index, which also has their thumbnails: no request is ever
turned into a path. One thread runs the model, one request after the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jax_itm.errors import UserError
from jax_itm.search.index import Hit, SearchIndex
from jax_itm.search.regions import word_regions
from jax_itm.serve.limits import LIMITS, Limits, RateLimiter

Answer = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Answer]]
Result = TypeVar("Result")

LARGEST_ID = 2**63 - 1  # of SQLite
TOP = 24
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Inline, as the page is one file; nothing is loaded from anywhere else, and no other page may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'",
}


def make_app(index: SearchIndex, limits: Limits = LIMITS, hosts: Sequence[str] = ("*",)) -> Starlette:
    """The application.

    Args:
        index: to search.
        limits: of what a client may ask.
        hosts: by which names a browser may call the server, so that no other site's name can lead to it.
    """
    handlers = Handlers(index, limits)
    page = files("jax_itm.serve").joinpath("page.html").read_text(encoding="utf-8")
    routes = [
        Route("/", lambda request: HTMLResponse(page, headers=HEADERS)),
        Route("/api/index", handlers.limited(handlers.describe)),
        Route("/api/pictures", handlers.limited(handlers.by_text), methods=["GET"]),
        Route("/api/pictures", handlers.limited(handlers.by_picture), methods=["POST"]),
        Route("/api/pictures/{id:int}", handlers.limited(handlers.neighbours)),
        Route("/api/pictures/{id:int}/regions", handlers.limited(handlers.regions)),
        Route("/thumbnails/{id:int}", handlers.thumbnail),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={HTTPException: _refuse},
    )


class Handlers:
    """What the application answers.

    Args:
        index: to search.
        limits: of what a client may ask.
    """

    def __init__(self, index: SearchIndex, limits: Limits):
        self.index = index
        self.limits = limits
        self._rates = RateLimiter(limits.rate, limits.burst)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._at_once = 0

    def limited(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint within the limits, whose errors are one line for the user."""

        async def answer(request: Request) -> Response:
            client = request.client.host if request.client else ""
            if not self._rates.allows(client):
                raise HTTPException(429, "too many requests; wait a second")
            if self._at_once >= self.limits.at_once:
                raise HTTPException(503, "too many requests at once; try again")
            self._at_once += 1
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return JSONResponse(await endpoint(request), headers=HEADERS)
            except TimeoutError as error:
                raise HTTPException(504, f"took longer than {self.limits.seconds:g} s") from error
            except UserError as error:
                raise HTTPException(400, str(error)) from error
            finally:
                self._at_once -= 1

        return answer

    async def describe(self, request: Request) -> Answer:
        """What the index has."""
        store = self.index.store
        return {
            "pictures": store.count("picture"),
            "captions": store.count("caption"),
            "method": self.index.matcher.method.label,
            "regions": self.index.has_tokens,
        }

    async def by_text(self, request: Request) -> Answer:
        """The pictures for ?text=."""
        text = self._text(request)
        return {"pictures": _rows(await self._run(self.index.pictures_for_text, text, self._top(request)))}

    async def by_picture(self, request: Request) -> Answer:
        """The captions and the pictures for an uploaded file, the body of the request."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.limits.body_bytes:
                raise HTTPException(413, f"a picture may have {self.limits.body_bytes:,} bytes")
        return await self._run(self._found_for, bytes(body), self._top(request))

    async def neighbours(self, request: Request) -> Answer:
        """The captions of a picture of the index, and the pictures nearest to it."""
        picture = self._picture(request)
        top = self._top(request)
        captions = await self._run(self.index.captions_for_picture, picture, top)
        pictures = await self._run(self.index.pictures_for_picture, picture, top)
        return {"captions": _rows(captions), "pictures": _rows(pictures)}

    async def regions(self, request: Request) -> Answer:
        """Which regions of a picture answer to the words of ?text=."""
        found = await self._run(word_regions, self.index, self._text(request), self._picture(request))
        cosines = found.cosines.round(4).tolist()
        return {"words": found.words, "boxes": found.boxes.round(5).tolist(), "cosines": cosines}

    def thumbnail(self, request: Request) -> Response:
        """The thumbnail of a picture."""
        jpeg = self.index.store.thumbnail(self._picture(request))
        return Response(jpeg, media_type="image/jpeg", headers=HEADERS)

    def _found_for(self, contents: bytes, top: int) -> Answer:
        limit = min(self.limits.max_pixels, self.index.transform.max_pixels)
        pixels = self.index.pixels(contents, limit)
        captions = self.index.captions_for_image(pixels, top)
        pictures = self.index.pictures_for_image(pixels, top)
        return {"captions": _rows(captions), "pictures": _rows(pictures)}

    async def _run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function in the model's thread. One that has not begun when time is up is never called."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _text(self, request: Request) -> str:
        text = request.query_params.get("text", "")
        if len(text) > self.limits.characters:
            raise HTTPException(400, f"a caption may have {self.limits.characters:,} characters")
        return text

    def _top(self, request: Request) -> int:
        text = request.query_params.get("top", str(TOP))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= self.limits.top):
            raise HTTPException(400, f"top: must be a whole number from 1 to {self.limits.top}")
        return int(text)

    def _picture(self, request: Request) -> int:
        picture = request.path_params["id"]
        if picture > LARGEST_ID or not self.index.store.names("picture", [picture]):
            raise HTTPException(404, f"no picture {picture}")
        return picture


def _rows(hits: Sequence[Hit]) -> list[Answer]:
    return [hit._asdict() for hit in hits]


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # Starlette calls it for no other
    return JSONResponse({"error": error.detail}, error.status_code, HEADERS)
