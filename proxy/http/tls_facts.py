"""Facts of TLS with one client, for logs."""

from __future__ import annotations

import ssl
from typing import Any, cast

from proxy.http.client_cert import distinguished, parsed


def note_name(connection: ssl.SSLObject, name: str) -> None:
    """Keep the name that a client asks for (SNI), which `ssl` tells once and then forgets."""
    cast(Any, connection).asked = name


class TlsFacts:
    """The facts of one connection's handshake, each looked up when it is asked for."""

    __slots__ = ("_client", "_ssl")

    def __init__(self, connection: ssl.SSLObject) -> None:
        self._ssl = connection
        self._client: str | None = None  # ≤ 64 KiB

    @property
    def version(self) -> str | None:
        """`TLSv1.3`."""
        return self._ssl.version()

    @property
    def cipher(self) -> str | None:
        """`TLS_AES_256_GCM_SHA384`."""
        cipher = self._ssl.cipher()
        return None if cipher is None else cipher[0]

    @property
    def name(self) -> str | None:
        """The name that the client asked for."""
        return getattr(self._ssl, "asked", None)

    @property
    def resumed(self) -> bool:
        """Whether the session is one of before."""
        return bool(self._ssl.session_reused)

    @property
    def client(self) -> str | None:
        """Subject of the client's certificate (RFC 4514); None = it has shown none."""
        if self._client is None:
            self._client = distinguished(parsed(self._ssl).get("subject", ()))
        return self._client or None
