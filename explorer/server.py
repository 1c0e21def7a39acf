"""The server of the page: its routes and limits. It answers from memory and serves no file but its own and examples."""

import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from anyio import CapacityLimiter, Semaphore, fail_after, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from explorer.index import IndexMaker
from explorer.look import Look
from explorer.visitors import MAX_BYTES, Forgotten, Visitors
from runtime.errors import InputError

STATIC = Path(__file__).parent / "static"
LOCAL = ("127.0.0.1", "localhost")
THREADS = 2  # that compute at a time, and one more for what takes seconds
MAX_CHANGES = 1_000_000  # bytes
SECONDS = 60  # in which a body must arrive
SILENCE = 5  # seconds after which a body that does not go on is given up
UPLOADS = 16  # that are read at a time: others wait outside the memory
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class TooLarge(InputError):
    """A request's body has too many bytes."""


class OwnPagesOnly:
    """Refuses requests that another site's page makes; adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        app, headers = self.app, dict(scope["headers"])
        foreign = headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none")
        origin = headers.get(b"origin")  # which browsers send with every POST, also where they leave the other out
        if foreign or (origin and origin.partition(b"//")[2] != headers.get(b"host")):
            app = failure("only this page's own requests are answered", 403)
        await app(scope, receive, send_with_headers)


def failure(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)


class Routes:
    """Answers requests about photographs and the network."""

    def __init__(self, visitors: Visitors, index: IndexMaker, examples: Sequence[Path]) -> None:
        self.visitors, self.index, self.examples = visitors, index, list(examples)
        self.limiter, self.slow, self.uploads = CapacityLimiter(THREADS), CapacityLimiter(1), Semaphore(UPLOADS)

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function that computes, in a thread; occlusion, which takes seconds, in one of its own."""
        limiter = self.slow if function is Look.occlusion else self.limiter
        return await to_thread.run_sync(function, *arguments, limiter=limiter)

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def network(self, request: Request) -> Response:
        """What does not depend on a photograph."""
        run, chain = self.visitors.run, self.visitors.chain
        columns = [
            {
                "name": column.name,
                "channels": self.visitors.shapes[column.name][0],
                "side": self.visitors.shapes[column.name][1],
                "frozen": run.model.is_frozen(column.name),
            }
            for column in chain.columns
        ]
        return JSONResponse({
            "run": run.detail, "caution": run.caution, "classes": run.classes, "columns": columns,
            "backbone": run.model.backbone_title, "index": self.index.state(),
            "examples": [path.stem.replace("_", " ") for path in self.examples], "max_bytes": MAX_BYTES,
        })  # fmt: skip

    async def add(self, request: Request) -> Response:
        """Takes an image file as the body of the request."""
        name, like = request.query_params.get("name", "photograph")[:200], request.query_params.get("like")
        async with self.uploads:
            content = await read_body(request, MAX_BYTES, name)
            id, look = await self.work(self.visitors.add, name, content, like)
        return JSONResponse({"id": id, **await self.work(look.summary)})

    async def change(self, request: Request) -> Response:
        look = self.look(request)
        try:
            wanted = json.loads(await read_body(request, MAX_CHANGES, "changes"))
            return JSONResponse(await self.work(look.change, wanted["scales"], wanted["cover"]))
        except InputError:
            raise
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise InputError("changes: give scales, {column: {channel: factor}}, and cover, four numbers") from error

    def look(self, request: Request) -> Look:
        return self.visitors.get(request.path_params["id"])

    def about(self, what: Callable[..., Any], *names: str) -> Callable[[Request], Awaitable[Response]]:
        """A route that answers with a method of `Look`, called with parameters of the query."""

        async def answer(request: Request) -> Response:
            given = [request.query_params.get(name, "") for name in names]
            for name, value in zip(names, given, strict=True):
                if name == "class" and not (value.isdecimal() and len(value) < 10):
                    raise InputError(f"class {value!r}: give its number")
            words = [int(value) if name == "class" else value for name, value in zip(names, given, strict=True)]
            found = await self.work(what, self.look(request), *words)
            return Response(found, media_type="image/png") if isinstance(found, bytes) else JSONResponse(found)

        return answer

    async def channel(self, request: Request) -> Response:
        column, channel = (request.query_params.get(name, "") for name in ("column", "channel"))
        found = await self.work(self.look(request).channel, column, channel)
        return JSONResponse(found | {"index": self.index.channel(column, int(channel))})

    async def nearest(self, request: Request) -> Response:
        return JSONResponse(await self.work(self.index.nearest, self.look(request)))

    async def index_state(self, request: Request) -> Response:
        return JSONResponse(self.index.state())

    async def make_index(self, request: Request) -> Response:
        self.index.start()
        return JSONResponse(self.index.state())

    async def index_image(self, request: Request) -> Response:
        content = await self.work(self.index.thumbnail, request.path_params["number"])
        return Response(content, media_type="image/jpeg")

    async def example(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self.examples):
            raise InputError(f"example {number}: there are {len(self.examples)}")
        return FileResponse(self.examples[number])

    def routes(self) -> list[Route | Mount]:
        image = "/api/images/{id}"
        return [
            Route("/", self.page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/api/network", self.network),
            Route("/api/images", self.add, methods=["POST"]),
            Route(f"{image}/changes", self.change, methods=["POST"]),
            Route(f"{image}/input.png", self.about(Look.input_png)),
            Route(f"{image}/edges", self.about(Look.edges, "column")),
            Route(f"{image}/class_edges", self.about(Look.class_edges)),
            Route(f"{image}/channel", self.channel),
            Route(f"{image}/added", self.about(Look.added, "column", "channel")),
            Route(f"{image}/class", self.about(Look.class_, "class")),
            Route(f"{image}/cam", self.about(Look.grad_cam, "column", "class")),
            Route(f"{image}/occlusion", self.about(Look.occlusion, "class")),
            Route(f"{image}/nearest", self.nearest),
            Route("/api/index", self.index_state),
            Route("/api/index", self.make_index, methods=["POST"]),
            Route("/api/index/{number:int}.jpg", self.index_image),
            Route("/api/examples/{number:int}", self.example),
        ]


async def read_body(request: Request, most: int, name: str) -> bytes:
    """The body of a request. Raises: InputError where it has more bytes than `most`, or takes too long to come."""
    content = bytearray()
    try:
        with fail_after(SECONDS):
            chunks = request.stream()
            while True:
                with fail_after(SILENCE):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                content += chunk
                if len(content) > most:
                    raise TooLarge(f"{name}: has more than {most / 1e6:g} MB; give a smaller one")
    except TimeoutError:
        raise InputError(f"{name}: did not arrive within {SECONDS} s, or stopped for {SILENCE} s; try again") from None
    return bytes(content)


async def on_error(request: Request, error: Exception) -> Response:
    return failure(str(error), 410 if isinstance(error, Forgotten) else 413 if isinstance(error, TooLarge) else 400)


def make_app(visitors: Visitors, index: IndexMaker, examples: Sequence[Path], names: Sequence[str] = ()) -> Starlette:
    """The application; answers under the host names `LOCAL` and `names` alone, whatever a browser was told in DNS."""
    return Starlette(
        routes=Routes(visitors, index, examples).routes(),
        middleware=[
            Middleware(OwnPagesOnly),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *names], www_redirect=False),
        ],
        exception_handlers={InputError: on_error},
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: InputError where the address or port cannot be had."""
    try:
        return socket.create_server((host, port), reuse_port=False)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot listen ({error.strerror}); give another --port or --host") from error


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answers requests until Ctrl-C."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
