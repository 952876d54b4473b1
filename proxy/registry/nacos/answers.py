"""Answers of Nacos → records in our form, which are read as strictly as in any registry. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.registry.base import BadReply
from proxy.registry.own import metadata_of, own_of, word_of
from proxy.registry.records import parsed


class Hosts(msgspec.Struct, frozen=True):
    """The instances of one service."""

    hosts: tuple[dict[str, Any], ...]
    protected: bool = False
    """Whether Nacos calls all of them healthy, because too few are."""


class Token(msgspec.Struct, frozen=True):
    """Result of a login."""

    access_token: str
    ttl: float
    """Seconds from now."""


def names(body: bytes) -> tuple[int, list[str]]:
    """A page of services, of either protocol: how many there are in all, and the names on it."""
    document = _object(body)
    doms = document.get("doms", document.get("serviceNames"))
    if not isinstance(doms, list) or not isinstance(count := document.get("count"), int):
        raise _other(body, "no count and names")
    # Some versions say the group in front of the name.
    return count, [str(one).rpartition("@@")[2] for one in doms]


def hosts(body: bytes) -> Hosts:
    """The answer of either API, v1 or v3."""
    document = _object(body)
    if "code" in document and document["code"] not in (0, 200):
        raise BadReply(f"code {document['code']}: {document.get('message')}")
    return _hosts(document, document.get("hosts", document.get("data")), body)


def service_info(body: bytes) -> tuple[str, Hosts]:
    """A service and its instances, as they are told over gRPC."""
    info = _object(body).get("serviceInfo")
    if not isinstance(info, dict):
        raise _other(body, "no serviceInfo")
    return str(info.get("name")).rpartition("@@")[2], _hosts(info, info.get("hosts"), body)


def outcome(body: bytes) -> tuple[int, str]:
    """Code of an error, or 0, and what is said about it, in an answer over gRPC."""
    document = _object(body)
    result, code = document.get("resultCode"), document.get("errorCode")
    if not isinstance(result, int):
        raise _other(body, "no resultCode")
    words = str(document.get("message") or "")[:200]
    return 0 if result == 200 else code if isinstance(code, int) and code else result, words


def request_id(body: bytes) -> str:
    """Id of a message over gRPC, which its answer has to name."""
    return str(_object(body).get("requestId", ""))


def done(body: bytes) -> None:
    """The answer to a change: a word of v1, or the code of v3. RegistryError for one that was not
    done."""
    if body.startswith(b"{") and (document := _object(body)).get("code") not in (0, 200):
        raise BadReply(f"code {document.get('code')}: {document.get('message')}")


def token(body: bytes) -> Token:
    """The answer to a login."""
    document = _object(body)
    try:
        return Token(str(document["accessToken"]), float(document["tokenTtl"]))
    except (KeyError, TypeError, ValueError):
        raise _other(body, "no accessToken") from None


def records(service: str, found: Hosts, before: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Key and record of each instance. `before`: what was made of the last answer, whose health
    counts while Nacos protects itself."""
    weights = [_number(one.get("weight", 1)) for one in found.hosts]
    # Weights are fractions there and whole numbers here, in the same proportions.
    scale = 100 if any(weight % 1 for weight in weights) else 1
    made: dict[bytes, bytes] = {}
    for one, weight in zip(found.hosts, weights, strict=True):
        given = one.get("metadata") or {}
        own = own_of(given)
        place = f"{one.get('ip')}:{one.get('port')}#{one.get('clusterName', 'DEFAULT')}"
        # Nobody keeps two instances from calling themselves alike.
        own_id = f"{service}/{own.record.get('id')}" if own else ""
        key = (own_id if own and own_id.encode() not in made else f"{service}/{place}").encode()
        health = _health(one)
        if found.protected and key in before:
            health = msgspec.json.decode(before[key])["health"]
        metadata = metadata_of(given)
        version = metadata.get("version")
        if own is not None:
            # Its weight in Nacos is 0 whenever it says that it is not to be used.
            version = own.record.get("version")
            health = word_of(own.record) if health == "healthy" else health
        elif (whole := str(max(1, round(weight * scale)) if weight > 0 else 0)) != "1":
            metadata["weight"] = whole
        made[key] = msgspec.json.encode(
            {
                "address": one.get("ip"),
                "port": one.get("port"),
                "version": version,
                "metadata": metadata,
                "health": health,
            }
        )
    return made


def _hosts(document: Mapping[str, Any], found: Any, body: bytes) -> Hosts:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _other(body, "no list of hosts")
    return Hosts(tuple(found), document.get("reachProtectionThreshold") is True)


def _health(one: Mapping[str, Any]) -> str:
    if one.get("enabled") is False:
        return "draining"
    return "unhealthy" if one.get("healthy") is False else "healthy"


def _number(given: Any) -> float:
    """A weight: at most 10,000, as Nacos has it."""
    known = isinstance(given, int | float) and given == given
    return max(0, min(given, 10_000)) if known else 1.0


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = parsed(body.decode())
    except (ValueError, RecursionError) as error:
        raise _other(body, str(error)) from None
    if not isinstance(document, dict):
        raise _other(body, "no object")
    return document


def _other(body: bytes, why: str) -> BadReply:
    return BadReply(f"not an answer of Nacos: {why}: {body[:60]!r}")
