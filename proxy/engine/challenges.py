"""Answers to a server that speaks ACME and asks whether names lead here."""

from __future__ import annotations

import ssl
from typing import Final

from proxy.http.messages import OwnAnswer
from proxy.messages import AcmeChallenges
from proxy.tls.contexts import ServerPolicy, server_context
from proxy.tls.hello import Hello

_PLACE: Final = "/.well-known/acme-challenge/"
_TYPE: Final = (b"Content-Type", b"application/octet-stream")
_PROTOCOL: Final = "acme-tls/1"


class Challenges:
    """The challenges that are to be answered now."""

    __slots__ = ("_answers", "_contexts")

    def __init__(self, message: AcmeChallenges) -> None:
        self._answers = {  # ≤ 1 KiB
            f"{_PLACE}{token}": OwnAnswer(200, "OK", (_TYPE,), text.encode())
            for token, text in message.tokens.items()
        }
        policy = ServerPolicy(alpn=(_PROTOCOL,), tickets=False)
        self._contexts = {  # ≤ 32 KiB
            name: server_context((pair,), policy) for name, pair in message.certificates.items()
        }

    @property
    def in_tls(self) -> bool:
        """Whether hellos have to be looked at."""
        return bool(self._contexts)

    def answer(self, method: bytes, path: str) -> OwnAnswer | None:
        """The answer to a request for a token of http-01 (RFC 8555 §8.3); None: it is somebody
        else's."""
        return self._answers.get(path) if method == b"GET" else None

    def context(self, hello: Hello) -> ssl.SSLContext | None:
        """The context that answers tls-alpn-01 (RFC 8737 §3); None: it is somebody else's hello."""
        if hello.protocols != (_PROTOCOL.encode(),):
            return None
        return self._contexts.get(hello.server_name)
