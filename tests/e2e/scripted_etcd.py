"""An etcd gateway that lies on request, for what no real server can be made to do on cue:
cancel a watch for a reason nobody knows, withhold events, change its identity."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


class ScriptedEtcd(ScriptedRegistry):
    """Owns a store of the size tests need, and answers as etcd 3.5 does unless told otherwise.

    Only prefix reads and watches are understood, which is all the provider asks for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cluster_id = 1
        self.revision = 1
        self.keys: dict[str, tuple[str, int]] = {}
        self.watch_answers: list[list[dict[str, Any]]] = []
        """Frames for the next watches, instead of following the store; one list for each."""
        self.range_answers: list[tuple[int, dict[str, Any]]] = []
        """Status and body for the next reads."""
        self.withhold = False
        """Keep events from watches: what a member does whose delivery is stuck."""
        self.hidden: set[str] = set()
        """Keys that reads do not show."""
        self.lag = 0
        """So many reads are answered as before the last change."""
        self.starts: list[int] = []
        """The revision that each watch asked to start from."""
        self.tokens: list[str | None] = []
        """What each read and watch showed for authorization."""
        self.logins = 0
        self._events: list[dict[str, Any]] = []
        self._before = self.revision, self.keys

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if request.path == "/v3/kv/range":
            return await self._range(request)
        if request.path == "/v3/watch":
            return await self._watch(request)
        assert request.path == "/v3/auth/authenticate"
        self.logins += 1
        return web.json_response({"header": self.header(), "token": f"token-{self.logins}"})

    def wipe(self) -> None:
        """Another store, in which there has been nothing."""
        self.cluster_id += 1
        self.revision = 1
        self.keys.clear()
        self._events.clear()

    async def put(self, key: str, value: str) -> None:
        self._before = self.revision, dict(self.keys)
        self.revision += 1
        self.keys[key] = (value, self.revision)
        await self._tell({"kv": _kv(key, value, self.revision)})

    async def delete(self, key: str) -> None:
        self._before = self.revision, dict(self.keys)
        self.revision += 1
        del self.keys[key]
        kv = {"key": _b64(key), "mod_revision": str(self.revision)}
        await self._tell({"type": "DELETE", "kv": kv})

    def header(self) -> dict[str, str]:
        return {"cluster_id": str(self.cluster_id), "revision": str(self.revision)}

    async def _tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        await self.told()

    async def _range(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization"))
        if self.range_answers:
            status, answer = self.range_answers.pop(0)
            return web.json_response(answer, status=status)
        body = json.loads(await request.read())
        start = base64.b64decode(body["key"]).decode(errors="replace")
        header, keys = self.header(), self.keys
        if self.lag:
            self.lag -= 1
            revision, keys = self._before
            header["revision"] = str(revision)
        kvs = [
            _kv(key, *held)
            for key, held in sorted(keys.items())
            if key >= start and key not in self.hidden
        ]
        if body.get("sort_order") == "DESCEND":
            kvs.sort(key=lambda kv: -int(kv["mod_revision"]))
        limit = body.get("limit") or len(kvs)
        answer = {"header": header, "kvs": kvs[:limit], "count": str(len(kvs))}
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


def _kv(key: str, value: str, revision: int) -> dict[str, Any]:
    return {"key": _b64(key), "value": _b64(value), "mod_revision": str(revision)}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
