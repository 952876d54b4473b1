"""An etcd gateway that lies on request, for what no real server can be made to do on cue:
cancel a watch for a reason nobody knows, withhold events, change its identity."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, Self

from aiohttp import web


class ScriptedEtcd:
    """Owns a store of the size tests need, and answers as etcd 3.5 does unless told otherwise.

    Only prefix reads and watches are understood, which is all the provider asks for.
    """

    def __init__(self) -> None:
        self.cluster_id = 1
        self.revision = 1
        self.keys: dict[str, tuple[str, int]] = {}
        self.watch_answers: list[list[dict[str, Any]]] = []
        """Frames for the next watches, instead of following the store; one list for each."""
        self.range_answers: list[tuple[int, dict[str, Any]]] = []
        """Status and body for the next reads."""
        self.withhold = False
        """Keep events from watches: what a member does whose delivery is stuck."""
        self.starts: list[int] = []
        """The revision that each watch asked to start from."""
        self.tokens: list[str | None] = []
        """What each read and watch showed for authorization."""
        self.logins = 0
        self.url = ""
        self._events: list[dict[str, Any]] = []
        self._grew = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v3/kv/range", self._range)
        app.router.add_post("/v3/watch", self._watch)
        app.router.add_post("/v3/auth/authenticate", self._authenticate)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def put(self, key: str, value: str) -> None:
        self.revision += 1
        self.keys[key] = (value, self.revision)
        await self._tell({"kv": _kv(key, value, self.revision)})

    async def delete(self, key: str) -> None:
        self.revision += 1
        del self.keys[key]
        kv = {"key": _b64(key), "mod_revision": str(self.revision)}
        await self._tell({"type": "DELETE", "kv": kv})

    def header(self) -> dict[str, str]:
        return {"cluster_id": str(self.cluster_id), "revision": str(self.revision)}

    async def _tell(self, event: dict[str, Any]) -> None:
        async with self._grew:
            self._events.append(event)
            self._grew.notify_all()

    async def _range(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization"))
        if self.range_answers:
            status, answer = self.range_answers.pop(0)
            return web.json_response(answer, status=status)
        body = json.loads(await request.read())
        start = base64.b64decode(body["key"]).decode(errors="replace")
        kvs = [_kv(key, *held) for key, held in sorted(self.keys.items()) if key >= start]
        if body.get("sort_order") == "DESCEND":
            kvs.sort(key=lambda kv: -int(kv["mod_revision"]))
        limit = body.get("limit") or len(kvs)
        answer = {"header": self.header(), "kvs": kvs[:limit], "count": str(len(kvs))}
        return web.json_response(answer | {"more": len(kvs) > limit})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        start = int(json.loads(await request.read())["create_request"]["start_revision"])
        self.starts.append(start)
        response = web.StreamResponse()
        await response.prepare(request)

        async def send(message: dict[str, Any]) -> None:
            await response.write(json.dumps(message).encode() + b"\n")

        if self.watch_answers:
            for message in self.watch_answers.pop(0):
                await send(message)
            await asyncio.Event().wait()  # as after a cancellation: open, and silent for ever
        await send({"result": {"header": self.header(), "created": True}})
        while True:
            async with self._grew:
                while self.withhold or not (due := self._due(start)):
                    await self._grew.wait()
            await send({"result": {"header": self.header(), "events": due}})
            start = int(due[-1]["kv"]["mod_revision"]) + 1

    def _due(self, start: int) -> list[dict[str, Any]]:
        return [event for event in self._events if int(event["kv"]["mod_revision"]) >= start]

    async def _authenticate(self, request: web.Request) -> web.Response:
        self.logins += 1
        return web.json_response({"header": self.header(), "token": f"token-{self.logins}"})


def _kv(key: str, value: str, revision: int) -> dict[str, Any]:
    return {"key": _b64(key), "value": _b64(value), "mod_revision": str(revision)}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
