"""One registry key and its JSON value → an `Instance`, or the reason why not.

Pure. The rules are strict where a wrong guess would send traffic astray (address, port, key)
and lenient where it would not (version, unknown fields, numbers among the metadata): one
registrar's sloppy label must not cost a service an instance.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

import msgspec

from proxy.model import Instance

MAX_WEIGHT = 65_535
"""Larger weights count as this: hash rings hold points per unit of weight, so one record with
a weight of a billion would otherwise eat the memory of every worker. nginx's ceiling too."""

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Scalar = str | int | float | bool | None


class _Health(msgspec.Struct):
    status: str | None = None
    message: str | None = None


class _Record(msgspec.Struct):
    """The fields that are read. Anything else in the value is ignored."""

    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    version: _Scalar = None
    metadata: dict[str, _Scalar] | None = None
    health: _Health | None = None


_decoder = msgspec.json.Decoder(_Record)


class Unreadable(Exception):
    """The record cannot be used; `str()` is the reason, fit for an operator to read."""


def split_key(key: bytes, prefix: bytes) -> tuple[str, str]:
    """`prefix + service + "/" + id` → (service, id).

    An id with a further `/` is refused: with it, `a/b/c` could be instance `b/c` of `a` or a
    key of some other tool that lives under the same prefix, and nothing tells which.
    """
    try:
        service, slash, instance = key[len(prefix) :].decode().partition("/")
    except UnicodeDecodeError:
        raise Unreadable("key is not UTF-8") from None
    if not key.startswith(prefix) or not service or not slash or not instance or "/" in instance:
        raise Unreadable(f"key is not of the form {prefix.decode()}<service>/<id>")
    if _CONTROL.search(service) or _CONTROL.search(instance):
        raise Unreadable("key holds control characters")
    return service, instance


def read(service: str, instance: str, value: bytes) -> Instance:
    """The instance a value describes. `service` and `instance` come from the key, which wins:
    `id` and `name` in the body are not even looked at."""
    try:
        record = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    metadata = {name: _text(item) for name, item in (record.metadata or {}).items()}
    health = record.health or _Health()
    return Instance(
        service=service,
        id=instance,
        address=_address(record.address),
        port=record.port,
        weight=weight(metadata.get("weight", "")),
        version=_text(record.version),
        metadata=metadata,
        health="healthy" if health.status is None else health.status,
        health_message=health.message or "",
    )


def weight(text: str) -> int:
    """`metadata.weight`: a positive integer in decimal; "0" drains; anything else counts as 1."""
    if not (text.isascii() and text.isdigit()):
        return 1
    digits = text.lstrip("0")
    return min(int(digits[:6] or "0"), MAX_WEIGHT)


def _address(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip_address(bare)
    except ValueError:
        if bare is not text or not _is_host_name(text):
            raise Unreadable(
                f"address {text[:80]!r} is neither an IP address nor a host name in ASCII"
            ) from None
    return bare


def _is_host_name(text: str) -> bool:
    """Labels of RFC 1123, and `_` because container networks use it. A last label of digits
    only (`10.0.0`, `999.1.1.1`) is an address gone wrong, which resolvers read in surprising
    ways (RFC 1123 section 2.1)."""
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= 253 and all(map(_LABEL.match, labels)) and not labels[-1].isdigit()
    )  # a match per label: one pattern for the whole name backtracks without end


def _text(item: _Scalar) -> str:
    """Numbers and booleans as JSON spells them, since registrars often write weight: 2."""
    if isinstance(item, str):
        return item
    return "" if item is None else msgspec.json.encode(item).decode()
