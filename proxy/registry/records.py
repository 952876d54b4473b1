"""One registry key and its JSON value → an `Instance`, or the reason why not.

Pure. The rules are strict where a wrong guess would send traffic astray (address, port, key) and
lenient everywhere else: one registrar's sloppy label must not cost a service an instance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import msgspec

from proxy.membership import Instance
from proxy.settings.protocol import stated_protocol

MAX_WEIGHT = 65_535
"""Larger weights count as this: hash rings hold points per unit of weight, so one record with
a weight of a billion would otherwise eat the memory of every worker. nginx's ceiling too."""

MAX_VALUE = 64 * 1024
"""Bytes of a record. The usual one has 300, etcd takes 1.5 MB, and every proxy reads and keeps
every record."""

MAX_NAME = 255
"""Bytes of a service's name or an id. They appear in keys, URLs and metric labels; the longest
DNS name is as long."""

HEALTHY = frozenset({"healthy", "up", "passing", "ok", "warning", "true"})
"""Words that mean `healthy`, in any case: ours, Eureka's, Consul's (whose `warning` is served, as
Consul's own DNS does) and what people write."""

DRAINING = frozenset({"draining", "maintenance", "out_of_service"})
"""Words that mean `draining`, in any case: ours, Consul's, Eureka's."""

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})\Z")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")
_GZIP = b"\x1f\x8b"
"""RFC 1952 section 2.3.1. No text in UTF-8 begins so."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}"
    r"|(u[dD][89a-fA-F][0-9A-Fa-f]{2})|.)",
    re.DOTALL,
)
"""Each escape of a JSON text; the group is half of a surrogate pair without the other half."""


class Unreadable(Exception):
    """The record cannot be used; `str()` is the reason, fit for an operator to read. Of one that
    holds several instances there may be some that can, and those that cannot may have an id."""

    def __init__(
        self,
        reason: str,
        readable: tuple[Instance, ...] = (),
        unread: AbstractSet[str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.readable = readable
        self.unread = unread
        """Ids of the others; None = all there are."""


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
    if has_control(service + instance):
        raise Unreadable("key holds control characters")
    if max(len(service.encode()), len(instance.encode())) > MAX_NAME:
        raise Unreadable(f"key has a service or an id of more than {MAX_NAME} bytes")
    return service, instance


def has_control(text: str) -> bool:
    """Whether there are control characters in a text."""
    return _CONTROL.search(text) is not None


def names_of(key: bytes) -> tuple[str, str]:
    """Service and id of a key of our own making, in which the id may hold anything."""
    service, _, instance = key.decode().partition("/")
    return service, instance


def read_named(key: bytes, value: bytes) -> tuple[Instance, str]:
    """Record of an instance under a key as `names_of` takes one; Unreadable, as of `read`."""
    return read(*names_of(key), value)


def read_below(key: bytes, value: bytes) -> tuple[Instance, str]:
    """Record of an instance under a key `service + "/" + id` that anybody made; Unreadable."""
    return read(*split_key(key, b""), value)


def service_of(key: bytes, prefix: bytes = b"") -> str:
    """The service that a key of any form is about; "" = it is below none."""
    service, slash, _ = key.removeprefix(prefix).decode(errors="replace").partition("/")
    return service if slash else ""


def read(service: str, instance: str, value: bytes) -> tuple[Instance, str]:
    """The instance a value describes, and what was odd about it ("" = nothing). `service` and
    `instance` come from the key, which wins: `id` and `name` in the value are not looked at."""
    return instance_of(service, instance, document(value))


def instance_of(
    service: str, instance: str, record: dict[str, Any], origin: str = ""
) -> tuple[Instance, str]:
    """As `read`, of a record that is decoded. An id "" becomes address and port."""
    odd: list[str] = []
    try:
        address, port = _endpoint(record)
        metadata, factor = _metadata(record.get("metadata"), odd)
        health, message = _health(record.get("health"), odd)
        version = _text(record.get("version"))
    except RecursionError:
        raise Unreadable("the value is nested too deeply") from None
    return Instance(
        service=service,
        id=instance or (f"[{address}]:{port}" if ":" in address else f"{address}:{port}"),
        address=address,
        port=port,
        weight=factor,
        version=version,
        metadata=metadata,
        health=health,
        health_message=message,
        origin=origin,
    ), "; ".join(odd)


def weight(text: str) -> int:
    """`metadata.weight`: a positive integer in decimal; "0" drains; anything else counts as 1."""
    if not (text.isascii() and text.isdigit()):
        return 1
    digits = text.lstrip("0")
    return min(int(digits[:6] or "0"), MAX_WEIGHT)


# ----------------------------------------------------------------------------- the value


def text_of(value: bytes) -> str:
    """The text that a value is; Unreadable for one that is too long, or none."""
    if len(value) > MAX_VALUE:
        raise Unreadable(f"the value has {len(value)} bytes; at most {MAX_VALUE} are read")
    if value.startswith(_GZIP):
        raise Unreadable("the value is compressed with gzip; texts and JSON are read")
    try:
        # RFC 8259 section 8.1 lets readers ignore a byte order mark.
        return value.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"the value is not UTF-8 (byte {error.start})") from None


def document(value: bytes) -> dict[str, Any]:
    """The object that a value is; Unreadable for anything else."""
    text = text_of(value)
    try:
        found = parsed(text)
    except ValueError as error:
        raise Unreadable(f"the value is not JSON ({error}): {text[:60]!r}") from None
    except RecursionError:
        raise Unreadable("the value is nested too deeply") from None
    if not isinstance(found, dict):
        raise Unreadable(f"the value is {_shown(found)}, not an object with address and port")
    return found


def parsed(text: str) -> Any:
    """A text of JSON, decoded as its grammar has it: msgspec refuses numbers beyond all bounds and
    halves of surrogate pairs (JavaScript cuts texts in the middle of them) even in fields that
    nobody reads. Beyond the grammar, what usual tools write all the same: NaN and Infinity
    (Python), and line ends in texts (shell scripts). ValueError, RecursionError."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        text = _ESCAPES.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)
        return json.loads(text, strict=False, parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


# ---------------------------------------------------------------------------- the fields


def _endpoint(record: dict[str, Any]) -> tuple[str, int]:
    """Address and port; what is wrong with both at once."""
    address, port = record.get("address"), record.get("port")
    if isinstance(address, str):
        address = address.strip()  # `hostname -I` ends with a space.
    wrong = [
        f"no {name}" for name, given in (("address", address), ("port", port)) if given is None
    ]
    if wrong:
        fields = ", ".join(name[:40] for name in list(record)[:12]) or "nothing"
        wrong = [f"{' and '.join(wrong)} in the value, which has: {fields}"]
    if address is not None and not _is_address(address):
        wrong.append(f"address {_shown(address)} is neither an IP address nor a host name in ASCII")
    number = _whole(port)
    if port is not None and (number is None or not 1 <= number <= 65535):
        wrong.append(f"port {_shown(port)} is not a whole number from 1 to 65535")
    if wrong:
        raise Unreadable("; ".join(wrong))
    return _bare(str(address)), number or 0


def _bare(address: str) -> str:
    """Without the brackets of an IPv6 address."""
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


def _is_address(given: Any) -> bool:
    if not isinstance(given, str):
        return False
    bare = _bare(given)
    host, percent, zone = bare.partition("%")
    if is_ip(host):
        return not percent or (":" in host and _ZONE.match(zone) is not None)
    return bare is given and _is_host_name(given)


def is_ip(text: str) -> bool:
    """In the usual spelling: four decimal numbers without leading zeros, or RFC 4291."""
    try:
        inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _is_host_name(text: str) -> bool:
    """Labels of RFC 1123, and `_` because container networks use it. A name whose last label is
    a number (`10.0.0`, `999.1.1.1`, `2130706433`, `0x7f000001`) is an address gone wrong, which
    resolvers read in surprising ways (RFC 1123 section 2.1, `inet_aton`)."""
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= 253 and all(map(_LABEL.match, labels)) and not _NUMBER.match(labels[-1])
    )  # a match per label: one pattern for the whole name backtracks without end


def _whole(given: Any) -> int | None:
    """Digits in a text, too, and 8080.0, which to JSON is the same number as 8080."""
    if isinstance(given, str):
        text = given.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return int(given) if given == given // 1 and abs(given) < 1e15 else None


def _metadata(given: Any, odd: list[str]) -> tuple[dict[str, str], int]:
    """The labels as texts, and the weight among them."""
    if not isinstance(given, dict):
        if given:  # PHP writes an empty map as [].
            odd.append(f"metadata {_shown(given)} is not an object: ignored")
        return {}, 1
    metadata = {name: _text(item) for name, item in given.items()}
    try:
        stated_protocol(metadata)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    stated = given.get("weight")
    if isinstance(stated, float) and (whole := _whole(stated)) is not None and whole >= 0:
        metadata["weight"] = str(whole)
    factor = weight(metadata.get("weight", ""))
    if metadata.get("weight") and metadata["weight"].lstrip("0") != (str(factor).lstrip("0")):
        odd.append(f"metadata.weight {_shown(stated)} counts as {factor}")
    return metadata, factor


def _health(given: Any, odd: list[str]) -> tuple[str, str]:
    """Status and message. A status that nobody knows is not served, and is kept as it stands;
    where none is stated, and a list or an object states none, it is `healthy`."""
    status, message = (
        (given.get("status"), given.get("message")) if isinstance(given, dict) else (given, None)
    )
    if isinstance(status, dict | list):
        if status:
            odd.append(f"health.status {_shown(status)} is not a word: ignored")
        status = None
    stated = _text(status)
    word = stated.strip().lower()
    if not word or word in HEALTHY:
        return "healthy", _text(message)
    return "draining" if word in DRAINING else stated, _text(message)


def _text(item: Any) -> str:
    """The text of a value; of anything but text as JSON spells it, since registrars often write
    weight: 2."""
    if isinstance(item, str):
        return item
    return "" if item is None else msgspec.json.encode(item).decode()


def _shown(item: Any) -> str:
    """Short, as JSON, for a complaint."""
    text = msgspec.json.encode(item).decode()
    return text if len(text) <= 80 else text[:77] + "..."
