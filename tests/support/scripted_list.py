"""An HTTP server that has a list of instances."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


class ScriptedList(ScriptedRegistry):
    """Owns the list, which is at any path."""

    def __init__(self, token: str = "") -> None:
        super().__init__()
        self.document: Any = []
        self.token = token
        """Only to who shows it."""
        self.status = 200
        self.fields: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if self.status != 200:
            return web.Response(status=self.status, text="out of order")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=403, text="who are you?")
        body = json.dumps(self.document).encode()
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        if request.headers.get("If-None-Match") == tag and not self.lies:
            return web.Response(status=304)
        headers = {"ETag": tag} if not self.lies else {}
        headers |= self.fields
        return web.Response(body=body, content_type="application/json", headers=headers)
