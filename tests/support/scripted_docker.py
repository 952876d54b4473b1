"""A daemon of Docker that lists containers and tells events, as its API documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


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
        event = {"Type": "container", "Action": action, "Actor": {"Attributes": attributes}}
        if not self.quiet:
            self._events.append(event)
            await self.told()

    def wipe(self) -> None:
        self.containers.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if request.path == "/containers/json":
            return web.json_response(list(self.containers.values()))
        assert request.path == "/events"
        response = web.StreamResponse()
        await response.prepare(request)
        told = len(self._events)
        while True:
            async with self._grew:
                while told == len(self._events):
                    await self._grew.wait()
            await self.speaks.wait()
            for event in self._events[told:]:
                await response.write(json.dumps(event).encode() + b"\n")
            told = len(self._events)
