"""What of a request a hash key, a rate limit or a route may look at.

In `proxy.yaml` it is one word, such as `client_ip`, `header:X-User-ID` or `cookie:session`; here
it is a pair: where to look, and what for.
"""

from __future__ import annotations

from typing import Final

from proxy.engine.http1.messages import RequestFields

Source = tuple[str, str]
"""Where to look, and the name of what is there; the name is empty where there is only one."""

_SET_APART: Final = {
    b"host": "host",
    b"expect": "expect",
    b"upgrade": "upgrade",
    b"x-request-id": "request_id",
    b"x-forwarded-for": "forwarded_for",
    b"x-forwarded-proto": "forwarded_proto",
    b"x-forwarded-host": "forwarded_host",
    b"x-forwarded-port": "forwarded_port",
    b"forwarded": "forwarded",
    b"x-real-ip": "real_ip",
}
"""Fields that mean something to a proxy, so that the parser keeps them by themselves."""


def source_of(word: str) -> Source:
    """`header:X-User-ID` → `("header", "x-user-id")`; cookie and query names keep their case."""
    source, _, name = word.partition(":")
    return source, name.lower() if source == "header" else name


def field(fields: RequestFields, name: bytes) -> bytes | None:
    """The value of a field by lower-case name; None when it is absent."""
    attribute = _SET_APART.get(name)
    if attribute is None:
        return fields.get(name)
    value: bytes | None = getattr(fields, attribute)
    return value


def property_of(
    source: Source, fields: RequestFields, path: str, query: bytes, client: bytes
) -> bytes | None:
    """The value of a property; None when the request has no such thing. `path` as it is matched,
    `query` with its question mark; `client`: the client's address."""
    where, name = source
    if where == "client_ip":
        return client
    if where == "host":
        return fields.host_name.encode("ascii")
    if where == "path":
        return path.encode("ascii")
    if where == "header":
        return field(fields, name.encode("latin-1"))
    if where == "cookie":
        return _pair(fields.get(b"cookie"), b";", name)
    if where == "query":
        return _pair(query[1:], b"&", name)
    return None


def _pair(text: bytes | None, separator: bytes, name: str) -> bytes | None:
    """`name=value` out of a list of such pairs."""
    if not text:
        return None
    wanted = name.encode("latin-1")
    for pair in text.split(separator):
        key, mark, value = pair.strip().partition(b"=")
        if mark and key == wanted:
            return value
    return None
