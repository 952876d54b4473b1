"""The command line's side of the admin API: one blocking request at a time."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

DEFAULT_URL = "http://127.0.0.1:9900"

TIMEOUT = 5.0
"""Seconds per step of a request. The slowest answer waits half a second for its workers."""

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes. The largest answer is the instances of one service, some 300 bytes each."""


class AdminError(Exception):
    """The proxy could not be asked, or it refused. The text is one line for people."""


class AdminClient:
    """Asks one admin server."""

    def __init__(self, url: str, token: str = "") -> None:
        """ValueError if `url` is not an http or https URL with a host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL like {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._token = token

    def get(self, path: str, query: list[tuple[str, str]]) -> Any:
        """The decoded JSON answer. AdminError if there is none."""
        return self._ask("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str) -> Any:
        """The decoded JSON answer. AdminError if there is none."""
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, self._prefix + path, headers=headers)
            answer = connection.getresponse()
            status, body = answer.status, answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise AdminError(
                f"no answer from the admin server at {self.url}: {reason}"
                " (is the proxy running? another address is given with --admin)"
            ) from None
        finally:
            connection.close()
        try:
            document = json.loads(body)
        except ValueError:
            raise AdminError(f"{self.url} is no admin server: status {status}, no JSON") from None
        if status == 401:
            raise AdminError(f"{self.url} asks for a token (--token or FAIRLEAD_ADMIN_TOKEN)")
        if status != 200:
            what = document.get("detail") or document.get("title") or ""
            raise AdminError(f"{self.url} answered {status}: {what}")
        return document


def url_of(bind: str) -> str:
    """Where a local client reaches a server that listens on `bind`."""
    host, _, port = bind.rpartition(":")
    # An unspecified address is every address of this machine, the loopback one included.
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{port}"
