"""A daemon of Docker that lists containers and tells events, as its API documents and its own
client reads it (`tests/e2e/test_scripted_servers.py`)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry

_VERSION = re.compile(r"^/v1\.\d+")


def container(service: str, name: str, port: int = 8080, **changes: Any) -> dict[str, Any]:
    labels = {"fairlead.service": service} | changes.pop("Labels", {})
    return {
        "Id": f"{name}0123456789abcdef",
        "Names": [f"/{name}"],
        "Labels": labels,
        "State": "running",
        "Status": "Up 3 minutes",
        "Ports": [{"PrivatePort": port, "Type": "tcp"}],
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.1"}}},
        **changes,
    }


class ScriptedDocker(ScriptedRegistry):
    """Owns running containers."""

    def __init__(self) -> None:
        super().__init__()
        self.containers: dict[str, dict[str, Any]] = {}
        self.refuses = False
        """As a program in front of the socket that lets nothing pass."""
        self.lists = asyncio.Event()
        """Lists are sent while it is set; they are made before."""
        self.lists.set()
        self.quiet = False
        """Events are told to nobody."""
        self._events: list[Mapping[str, Any]] = []

    async def put(self, *containers: dict[str, Any]) -> None:
        for one in containers:
            self.containers[one["Names"][0][1:]] = one
            await self._happened("start", one)

    async def delete(self, name: str) -> None:
        await self._happened("die", self.containers.pop(name))

    async def _happened(self, action: str, one: Mapping[str, Any]) -> None:
        attributes = {**one["Labels"], "name": one["Names"][0][1:]}
        actor = {"ID": one["Id"], "Attributes": attributes}
        event = {"Type": "container", "Action": action, "Actor": actor, "scope": "local"}
        if not self.quiet:
            self._events.append(event)
            await self.told()

    def wipe(self) -> None:
        self.containers.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if self.refuses:
            return web.Response(status=403)
        path = _VERSION.sub("", request.path)
        if path == "/version":
            return web.json_response({"Version": "28.0.0", "ApiVersion": "1.48"})
        wanted = json.loads(request.query.get("filters", "{}"))
        if path == "/containers/json":
            found = [one for one in self.containers.values() if _has(wanted, one["Labels"])]
            listed = web.json_response(found)
            await self.lists.wait()
            return listed
        if path != "/events":
            return web.json_response({"message": "page not found"}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        told = len(self._events)
        while True:
            async with self._grew:
                while told == len(self._events):
                    await self._grew.wait()
            await self.speaks.wait()
            for event in self._events[told:]:
                if _has(wanted, event["Actor"]["Attributes"]):
                    await response.write(json.dumps(event).encode() + b"\n")
            told = len(self._events)


def _has(filters: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> bool:
    """Whether a container with these labels is wanted; nothing but containers is there."""
    wanted = (text.partition("=") for text in filters.get("label", ()))
    return "container" in filters.get("type", ["container"]) and all(
        name in labels and (not sign or labels[name] == value) for name, sign, value in wanted
    )
