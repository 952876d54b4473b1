"""The same small web site for several servers. `node/server.mjs` is its twin.

Started as `python -m tests.e2e.served KIND PORT IDLE`, or `gunicorn tests.e2e.served:wsgi`.

| path | answer |
|---|---|
| `/hello`, `/bare` | `hello`, with a length and an ETag; 304 to its validator |
| `/echo` | the request's body |
| `/pieces` | fifty pieces without a length |
| `/refuse` | 403, without a look at the body |
| `/fields` | the bytes of all `X-Sent-*` fields as a number, and 12 KB of fields |
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

HELLO = b"hello"
REFUSED = b"no"
ETAG = '"one"'
PIECES = [b"%03d," % number * 250 for number in range(50)]
LARGE = {"X-Large": "l" * 7000, **{f"X-Many-{number}": "m" * 100 for number in range(50)}}


def sent(fields: Iterable[tuple[str, str]]) -> bytes:
    """The size of what came in `X-Sent-*`, in decimal digits."""
    return b"%d" % sum(len(value) for name, value in fields if name.lower().startswith("x-sent-"))


# -- aiohttp


async def serve_aiohttp(port: int, idle: float) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == ETAG:
            return web.Response(status=304, headers={"ETag": ETAG})
        return web.Response(body=HELLO, headers={"ETag": ETAG})

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=403, body=REFUSED)

    async def pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for piece in PIECES:
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async def fields(request: web.Request) -> web.Response:
        return web.Response(body=sent(request.headers.items()), headers=LARGE)

    app = web.Application(client_max_size=8 << 20)
    app.router.add_get("/hello", hello)
    app.router.add_get("/bare", hello)
    app.router.add_post("/echo", echo)
    app.router.add_post("/refuse", refuse)
    app.router.add_get("/pieces", pieces)
    app.router.add_get("/fields", fields)
    await web._run_app(
        app, host="127.0.0.1", port=port, keepalive_timeout=idle, print=None, access_log=None
    )


# -- ASGI

Message = dict[str, Any]


async def asgi(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """The site as an ASGI application."""
    assert scope["type"] == "http", scope
    fields = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]

    async def answer(body: bytes, status: int = 200, more: Mapping[str, str] | None = None) -> None:
        named = [(k.encode(), v.encode()) for k, v in (more or {}).items()]
        if status != 304:
            named.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": named})
        await send({"type": "http.response.body", "body": body})

    async def body() -> AsyncIterator[bytes]:
        while True:
            message = await receive()
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    match scope["path"]:
        case "/echo":
            await answer(b"".join([piece async for piece in body()]))
        case "/refuse":
            await answer(REFUSED, 403)
        case "/pieces":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in PIECES:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        case "/fields":
            await answer(sent(fields), more=LARGE)
        case _ if ("if-none-match", ETAG) in fields:
            await answer(b"", 304, {"ETag": ETAG})
        case _:
            await answer(HELLO, more={"ETag": ETAG})


async def serve_uvicorn(port: int, idle: float, http: Any) -> None:
    import uvicorn

    # uvicorn declares whole seconds and hands them to call_later, which takes any number.
    limit: Any = idle
    config = uvicorn.Config(
        asgi, port=port, timeout_keep_alive=limit, http=http, lifespan="off", access_log=False
    )
    await uvicorn.Server(config).serve()


# -- WSGI


def wsgi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """The site as a WSGI application."""

    def answer(
        body: bytes, status: str = "200 OK", more: Mapping[str, str] | None = None
    ) -> Iterable[bytes]:
        named = list((more or {}).items())
        if not status.startswith("304"):
            named.append(("Content-Length", str(len(body))))
        start(status, named)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    match environ["PATH_INFO"]:
        case "/echo":
            return answer(environ["wsgi.input"].read())
        case "/refuse":
            return answer(REFUSED, "403 Forbidden")
        case "/pieces":
            start("200 OK", [])
            return iter(PIECES)
        case "/fields":
            names = ((name[5:].replace("_", "-"), str(value)) for name, value in environ.items())
            return answer(sent(names), more=LARGE)
        case _ if environ.get("HTTP_IF_NONE_MATCH") == ETAG:
            return answer(b"", "304 Not Modified", {"ETag": ETAG})
        case _:
            return answer(HELLO, more={"ETag": ETAG})


def main(kind: str, port: str, idle: str) -> None:
    import asyncio

    if kind == "aiohttp":
        asyncio.run(serve_aiohttp(int(port), float(idle)))
    else:
        asyncio.run(serve_uvicorn(int(port), float(idle), kind.partition("-")[2]))


if __name__ == "__main__":
    main(*sys.argv[1:])
