"""Places that an answer names, from the instance's point of view to the client's: `Location`,
`Content-Location` and the path of cookies, behind a route that changed path or host."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.http.edits import response_with
from proxy.http.messages import CRLF, ResponseHead

_NAMED: Final = (b"location", b"content-location")
_COOKIE_PATH: Final = re.compile(rb"(;[ \t]*path=)(/[^;]*)", re.IGNORECASE)
_ABSOLUTE: Final = re.compile(rb"(https?:)?//([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORTS: Final = {b"http:": b":80", b"https:": b":443"}
"""Ports that many servers write out, and names of hosts leave out (RFC 9110 section 4.2.3)."""


class WayBack(NamedTuple):
    """Changes of a route to path and host, and how an answer turns them back."""

    inner: bytes
    """Prefix of the instance's paths, without a slash at its end."""
    outer: bytes
    """The client's prefix in its place."""
    host: bytes
    """`Host` that the instance got."""
    client_host: bytes
    """The client's."""
    scheme: bytes
    """The client's."""

    def answer(self, response: ResponseHead) -> ResponseHead:
        """The answer with its places as the client knows them."""
        fields = response.fields
        lines: list[bytes] = []
        changed = False
        for name, value in fields.pairs:  # ≤ 256
            lower = name.lower()
            new = value
            if lower in _NAMED:
                new = self._location(value)
            elif lower == b"set-cookie":
                new = _COOKIE_PATH.sub(self._cookie_path, value)
            changed = changed or new != value
            lines.append(name + b": " + new + CRLF)
        if not changed:
            return response
        new_fields = response_with(fields, b"".join(lines))
        return ResponseHead(response.status, response.status_line, response.minor, new_fields)

    def _location(self, value: bytes) -> bytes:
        if value.startswith(b"/") and not value.startswith(b"//"):
            return self._path(value)
        absolute = _ABSOLUTE.fullmatch(value)
        if absolute is None:
            return value
        scheme, host, rest = absolute[1] or b"", absolute[2].lower(), absolute[3]
        own = self.host.lower()
        if own not in (host, host.removesuffix(_DEFAULT_PORTS.get(scheme.lower(), b""))):
            return value
        if scheme and self.host != self.client_host:
            scheme = self.scheme + b":"  # Nobody meant another one of a name not the client's.
        return b"%b//%b%b" % (scheme, self.client_host, self._path(rest) if rest else rest)

    def _path(self, path: bytes) -> bytes:
        if not path.startswith(self.inner + b"/") and (
            path[: len(self.inner)] != self.inner or path[len(self.inner) :][:1] not in b"?#"
        ):
            return path
        new = self.outer + path[len(self.inner) :]
        return new if new.startswith(b"/") else b"/" + new  # The client's prefix is the root.

    def _cookie_path(self, found: re.Match[bytes]) -> bytes:
        path = self._path(found[2])
        if path == self.outer + b"/" and self.outer:
            path = self.outer  # With a slash behind it, the prefix itself would get no cookie.
        return found[1] + path
