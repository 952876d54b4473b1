"""Properties of a request that a hash key, a rate limit or a route may look at.

In `proxy.yaml` it is one word, such as `client_ip`, `header:X-User-ID` or `cookie:session`; here
it is a pair: where to look, and what for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from proxy.http.messages import RequestFields
from proxy.http.target import barest

Source = tuple[str, str]
"""Where to look, and the name of what is there; the name is empty where there is only one."""

_SET_APART: Final = {
    b"host": "host",
    b"expect": "expect",
    b"upgrade": "upgrade",
}
"""Fields that mean something to a proxy, so that the parser keeps them by themselves."""


def source_of(word: str) -> Source:
    """`header:X-User-ID` → `("header", "x-user-id")`; cookie and query names keep their case."""
    source, _, name = word.partition(":")
    return source, name.lower() if source == "header" else name


def field(fields: RequestFields, name: bytes, trusted: bool) -> bytes | None:
    """The value of a field by lower-case name; None when it is absent. `trusted`: by a proxy that
    may speak of others; without that, what only such a one may say counts as absent."""
    if name == fields.id_name:
        return fields.request_id
    attribute = _SET_APART.get(name)
    if attribute is not None:
        value: bytes | None = getattr(fields, attribute)
        return value
    if trusted and name in fields.claims:
        return fields.claims[name]
    return fields.get(name)


def property_of(
    source: Source, fields: RequestFields, path: str, query: bytes, trusted: bool
) -> bytes | None:
    """The value of a property other than `client_ip`; None when the request has no such thing.
    `path` as it is matched, `query` with its question mark; `trusted`: see `field`."""
    where, name = source
    if where == "host":
        return fields.host_name.encode("ascii")
    if where == "path":
        return barest(path).encode("ascii")
    if where == "header":
        return field(fields, name.encode("latin-1"), trusted)
    if where == "cookie":
        return _pair(fields.get(b"cookie"), b";", name)
    if where == "query":
        return _pair(query[1:], b"&", name)
    return None


def parameter(query: bytes, name: str) -> str | None:
    """The first value of a parameter of a query without its question mark, escapes resolved as in a
    form; None when there is none among the first thousand."""
    for pair in query.split(b"&", 1000)[:1000]:  # ≤ 1000
        key, _, value = pair.partition(b"=")
        if unquote_plus(key.decode("latin-1")) == name:
            return unquote_plus(value.decode("latin-1"))
    return None


def _pair(text: bytes | None, separator: bytes, name: str) -> bytes | None:
    """`name=value` out of a list of such pairs."""
    if not text:
        return None
    match = _pattern(name, separator).search(text)
    return None if match is None else match[1].rstrip()


@lru_cache(maxsize=256)  # ≤ 256 KiB
def _pattern(name: str, separator: bytes) -> re.Pattern[bytes]:
    """For each pair that the configuration asks for. A text of thousands of pairs is searched
    without a line of Python for each."""
    key = re.escape(name.encode("latin-1"))
    return re.compile(rb"(?:^|%b)\s*%b=([^%b]*)" % (separator, key, separator))
