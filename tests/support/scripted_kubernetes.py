"""An API server that lists and watches EndpointSlices as Kubernetes documents it, and as its own
client reads it (`tests/e2e/test_scripted_servers.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry

_PATH = re.compile(r"/apis/discovery\.k8s\.io/v1/namespaces/[^/]+/endpointslices")


def endpoint(name: str, address: str = "10.0.0.1", **changes: Any) -> dict[str, Any]:
    return {"addresses": [address], "targetRef": {"kind": "Pod", "name": name}, **changes}


def slice_of(service: str, name: str, *endpoints: Mapping[str, Any], **changes: Any) -> Any:
    labels = {"kubernetes.io/service-name": service}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        **changes,
    }


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """The object of every failure."""
    fields = {"status": "Failure", "message": message, "reason": reason, "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **fields}


class ScriptedKubernetes(ScriptedRegistry):
    """Owns the slices of one namespace, and all that has happened to them."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 100
        self.slices: dict[str, dict[str, Any]] = {}
        self.forgotten = 0
        """Watches from before this version are told that it is gone."""
        self.hangs_up = False
        """Watches end at once."""
        self.token = ""
        """Who does not show it is refused."""
        self._events: list[tuple[int, dict[str, Any]]] = []

    async def put(self, one: dict[str, Any]) -> None:
        kind = "MODIFIED" if one["metadata"]["name"] in self.slices else "ADDED"
        self.slices[one["metadata"]["name"]] = await self._happened(kind, one)

    async def delete(self, name: str) -> None:
        await self._happened("DELETED", self.slices.pop(name))

    async def bookmark(self) -> None:
        """Tell the version to those who have asked for it."""
        await self._happened("BOOKMARK", {"kind": "EndpointSlice", "metadata": {}})

    async def _happened(self, kind: str, one: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = one["metadata"] | {"resourceVersion": str(self.version)}
        one = one | {"metadata": metadata}
        self._events.append((self.version, {"type": kind, "object": one}))
        await self.told()
        return one

    def wipe(self) -> None:
        self.slices.clear()
        self._events.clear()
        self.version = 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response(status(403, "Forbidden", "forbidden"), status=403)
        if not _PATH.fullmatch(request.path):
            return web.json_response(status(404, "NotFound", "no such page"), status=404)
        if request.query.get("watch") in ("1", "true", "True"):
            return await self._watch(request)
        names = sorted(self.slices)
        start = int(request.query.get("continue", 0))
        end = start + int(request.query.get("limit", len(names)))
        metadata = {"resourceVersion": str(self.version)}
        if end < len(names):
            metadata["continue"] = str(end)
        items = [self.slices[name] for name in names[start:end]]
        kind = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1"}
        return web.json_response({**kind, "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if self.hangs_up:
            return response
        at = int(request.query["resourceVersion"])
        bookmarks = request.query.get("allowWatchBookmarks") in ("1", "true", "True")
        if at < self.forgotten:
            told = f"too old resource version: {at} ({self.forgotten})"
            await _say(response, "ERROR", status(410, "Expired", told))
            return response
        if at > self.version:
            told = f"Too large resource version: {at}, current: {self.version}"
            await _say(response, "ERROR", status(504, "Timeout", told))
            return response
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(int(request.query.get("timeoutSeconds", 1800))):
                while True:
                    async with self._grew:
                        while self.version <= at:
                            await self._grew.wait()
                    await self.speaks.wait()
                    for version, event in self._events:
                        if version > at and (bookmarks or event["type"] != "BOOKMARK"):
                            await _say(response, event["type"], event["object"])
                    at = self.version
        return response


async def _say(response: web.StreamResponse, kind: str, object_: Mapping[str, Any]) -> None:
    await response.write(json.dumps({"type": kind, "object": object_}).encode() + b"\n")
