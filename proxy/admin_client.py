"""The command line's side of the admin API: one blocking request at a time."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_URL = "http://127.0.0.1:9900"

TIMEOUT = 5.0
"""Seconds per step of a request. The slowest answer waits half a second for its workers."""

SILENCE = 40.0
"""Seconds without a word after which a stream of events is taken for dead: the server says
something every fifteen."""

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes. The largest answer is the instances of one service, some 300 bytes each."""


class AdminError(Exception):
    """The proxy could not be asked, or it refused. The text is one line for people."""


class AdminClient:
    """Asks one admin server."""

    def __init__(self, url: str, token: str = "", context: ssl.SSLContext | None = None) -> None:
        """`context`: for TLS; None = the system's authorities are believed. ValueError if `url` is
        no http or https URL with a host, or `token` cannot be sent."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        sendable = re.fullmatch("[!-~]+", host) and re.fullmatch("[!-~]*", parts.path)
        if parts.scheme not in ("http", "https") or not sendable:
            raise ValueError(f"{url!r} is not a URL like {DEFAULT_URL}")
        token = token.strip()  # A file that a secret is kept in ends with a line end.
        if not re.fullmatch("[!-~]*", token):
            raise ValueError("the token holds characters that cannot be sent")
        self.url = url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._context = context
        self._host = host
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._token = token

    def get(self, path: str, key: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """The decoded JSON answer. AdminError if there is none with that key."""
        asked = urlencode(query, errors="surrogateescape")  # An argument may be no UTF-8.
        return self._ask("GET", path + (f"?{asked}" if asked else ""), key)

    def post(self, path: str, key: str, timeout: float = TIMEOUT) -> Any:
        """The decoded JSON answer. AdminError if there is none with that key. `timeout`: seconds
        per step."""
        return self._ask("POST", path, key, timeout)

    def events(self, path: str) -> Iterator[tuple[str, str]]:
        """Server-sent events as they come, kind and data, until the server ends the stream.
        AdminError when it is lost."""
        connection = self._connection(SILENCE)
        try:
            connection.request("GET", self._prefix + path, headers=self._headers())
            answer = connection.getresponse()
            if answer.getheader("Content-Type", "").partition(";")[0] != "text/event-stream":
                self._document(answer.status, answer.read(MAX_ANSWER))
                raise AdminError(f"{self.url} is no admin server: it tells no events")
            kind = data = ""
            while line := answer.readline(MAX_ANSWER):
                name, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif not name and kind:
                    yield kind, data
                    kind = data = ""
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout, context=self._context
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _ask(self, method: str, path: str, key: str, timeout: float = TIMEOUT) -> Any:
        connection = self._connection(timeout)
        try:
            connection.request(method, self._prefix + path, headers=self._headers())
            answer = connection.getresponse()
            status, body = answer.status, answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        finally:
            connection.close()
        document = self._document(status, body)
        if key not in document:
            raise AdminError(f"{self.url} is no admin server: its answer has no {key!r}")
        return document

    def _silent(self, error: Exception) -> AdminError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate: {error.verify_message}"
        return AdminError(
            f"no answer from the admin server at {self.url}: {reason}"
            " (is the proxy running? another address is given with --admin)"
        )

    def _document(self, status: int, body: bytes) -> Any:
        """Decode an answer. AdminError if it is a refusal, or no answer of an admin server."""
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise AdminError(f"{self.url} is no admin server: status {status}, no JSON object")
        if status == 401:
            another = ", and not this one" if self._token else ""
            raise AdminError(
                f"{self.url} asks for a token{another} (--token or FAIRLEAD_ADMIN_TOKEN)"
            )
        if status != 200 and "result" not in document:
            what = document.get("detail") or document.get("title") or ""
            raise AdminError(f"{self.url} answered {status}: {what}")
        return document


def segment(name: str) -> str:
    """A name, as it was given to the command, in a path of the admin API."""
    return quote(name, safe="", errors="surrogateescape")


def url_of(bind: str, *, secure: bool = False) -> str:
    """Where a local client reaches a server that listens on `bind`."""
    host, _, port = bind.rpartition(":")
    # An unspecified address is every address of this machine, the loopback one included.
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{'https' if secure else 'http'}://{host}:{port}"


def believing(ca: str) -> ssl.SSLContext:
    """A context that believes the authorities in this file. OSError if it cannot be used."""
    return ssl.create_default_context(cafile=ca)


def believing_only(cert: str, key: str, *, shows: bool) -> ssl.SSLContext:
    """A context for the server whose certificate this file has, under whatever name it is called;
    `shows`: it asks for a certificate, and is shown its own. OSError or ValueError if a file cannot
    be used."""
    text = Path(cert).read_text("ascii", "replace")
    leaf = re.search("-----BEGIN CERTIFICATE.*?-----END CERTIFICATE-----", text, re.DOTALL)
    if leaf is None:
        raise ValueError(f"{cert} holds no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=leaf[0])
    if shows:
        context.load_cert_chain(cert, key, password="")
    return context
