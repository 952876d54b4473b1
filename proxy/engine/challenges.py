"""Answers to a server that speaks ACME and asks whether names lead here (RFC 8555 §8)."""

from __future__ import annotations

from typing import Final

from proxy.http.messages import OwnAnswer
from proxy.messages import AcmeChallenges

_PLACE: Final = "/.well-known/acme-challenge/"
_TYPE: Final = (b"Content-Type", b"application/octet-stream")


class Challenges:
    """The challenges that are to be answered now."""

    __slots__ = ("_answers",)

    def __init__(self, message: AcmeChallenges) -> None:
        self._answers = {  # ≤ 1 KiB
            f"{_PLACE}{token}": OwnAnswer(200, "OK", (_TYPE,), text.encode())
            for token, text in message.tokens.items()
        }

    def answer(self, method: bytes, path: str) -> OwnAnswer | None:
        """The answer to a request for a token of http-01; None: it is somebody else's."""
        return self._answers.get(path) if method == b"GET" else None
