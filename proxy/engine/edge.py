"""Demands of a listener on requests before they are routed: to come over TLS, and over a
connection whose certificate is for their host."""

from __future__ import annotations

from http import HTTPStatus

from proxy.errors import BAD_REQUEST, MISDIRECTED, Refused
from proxy.http.messages import OwnAnswer
from proxy.settings.edge import Redirect
from proxy.tls.names import NameTable


class Edge:
    """The demands of one listener, or of those of its connections that got one certificate."""

    __slots__ = ("_names", "_redirect")

    def __init__(self, redirect: Redirect | None = None, names: NameTable | None = None) -> None:
        """`names`: of the certificate that was shown, where requests for other hosts must not be
        served: for those another one might have been shown, or the client's asked for."""
        self._redirect = redirect
        self._names = names

    def answer(self, host: str, path: str, query: bytes) -> OwnAnswer | None:
        """The answer to a request that is not served here, by its host without port and its
        resolved path; None: it is. Raises `Refused` for one that came over a connection which is
        not for its host (RFC 9110 §15.5.20), and for one that cannot be sent anywhere else."""
        if self._names is not None and host and not self._names.find(host.strip("[]")):
            raise Refused(MISDIRECTED, f"the connection's certificate is not for {host}")
        redirect = self._redirect
        if redirect is None or any(_below(path, one) for one in redirect.excepted):
            return None
        if not host:
            raise Refused(BAD_REQUEST, "without a Host it has no address under https to go to")
        port = "" if redirect.port == 443 else f":{redirect.port}"
        location = f"https://{host}{port}{path}".encode("ascii") + query
        phrase = HTTPStatus(redirect.status).phrase
        return OwnAnswer(redirect.status, phrase, ((b"Location", location),), b"")


def _below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and (
        prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] in ("", "/")
    )
