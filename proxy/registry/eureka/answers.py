"""Answers of Eureka → records in our form, which are read as strictly as in any registry. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

from proxy.registry.base import RegistryError
from proxy.registry.eureka.options import Options
from proxy.registry.own import metadata_of, own_of
from proxy.registry.records import parsed

DELETED: Final = "DELETED"


class Known(msgspec.Struct, frozen=True):
    """All instances of one server."""

    records: Mapping[bytes, bytes]
    statuses: Mapping[bytes, str]
    """In Eureka's words, by the same keys."""
    stated: str
    """Eureka's hash of the statuses, as it came with the last answer."""
    left: AbstractSet[bytes] = frozenset()
    """Keys of which Eureka said that they were cancelled, or not renewed."""

    @property
    def agrees(self) -> bool:
        """Whether the hash is that of the statuses. Equal ones prove little: a swap passes."""
        counts = Counter(self.statuses.values())
        return self.stated == "".join(f"{word}_{counts[word]}_" for word in sorted(counts))


def everything(body: bytes, options: Options) -> Known:
    """The whole registry. RegistryError for anything but that."""
    stated, found = _instances(body)
    named = {key: one for one in found if (key := _key(one, options)) is not None}
    return Known(
        {key: _record(one, options) for key, one in named.items()},
        {key: _status(one) for key, one in named.items()},
        stated,
    )


def changed(known: Known, body: bytes, options: Options) -> Known:
    """Add the changes of the last minutes to what was known. They are told again and again, and in
    the order in which they happened."""
    stated, found = _instances(body)
    records, statuses = dict(known.records), dict(known.statuses)
    deleted: set[bytes] = set()
    for one in found:
        key = _key(one, options)
        if key is None:
            continue
        if one.get("actionType") == DELETED:
            deleted.add(key)
            records.pop(key, None)
            statuses.pop(key, None)
        else:
            records[key], statuses[key] = _record(one, options), _status(one)
    return Known(records, statuses, stated, deleted - records.keys())


def _instances(body: bytes) -> tuple[str, list[dict[str, Any]]]:
    """Hash and instances of an answer, of whichever codec of Eureka."""
    try:
        applications = parsed(body.decode())["applications"]
        stated = applications["apps__hashcode"]
        found = [
            one for each in _list(applications, "application") for one in _list(each, "instance")
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RegistryError(
            f"not an answer of Eureka: {type(error).__name__}: {error}: {body[:60]!r}"
        ) from None
    return str(stated), found


def _list(section: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The items of a list, of which old codecs make the item itself if there is one."""
    items = section.get(name) or []
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, dict):
            raise TypeError(f"{name} holds {str(item)[:40]!r}")
        yield item


def _key(one: Mapping[str, Any], options: Options) -> bytes | None:
    app = str(one.get("app") or "")
    id_ = one.get("instanceId") or one.get("hostName")
    if not app or not id_:
        return None
    return f"{app.lower() if options.names == 'lower' else app}/{id_}".encode()


def _status(one: Mapping[str, Any]) -> str:
    return str(one.get("status") or "UP")


def _record(one: Mapping[str, Any], options: Options) -> bytes:
    given = one.get("metadata") or {}
    own = own_of(given)
    metadata = metadata_of(given)
    addresses = [one.get("ipAddr"), one.get("hostName")]
    address = next(filter(None, addresses[:: 1 if options.prefer == "ip" else -1]), None)
    port = _port(one.get("port"))
    if port is None and (port := _port(one.get("securePort"))) is not None:
        metadata = {**metadata, "scheme": "https"}
    return msgspec.json.encode(
        {
            "address": address,
            "port": port,
            "version": own.record.get("version") if own else metadata.get("version"),
            "metadata": metadata,
            "health": _status(one),
        }
    )


def _port(given: Any) -> Any:
    """A port that is enabled: `{"$": 8080, "@enabled": "true"}`."""
    if not isinstance(given, dict):
        return given
    return given.get("$") if str(given.get("@enabled", "true")).lower() == "true" else None
