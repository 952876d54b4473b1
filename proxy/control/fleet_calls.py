"""Questions to the other proxies of a fleet: over verified TLS, signed, and never with a token."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
import msgspec

from proxy import files
from proxy.fleet.merged import Document
from proxy.fleet.signing import Signatures, authority_of, sign
from proxy.settings.file import Settings
from proxy.settings.process import LARGEST_KEY
from proxy.threads import in_thread
from proxy.tls.certificates import LARGEST_PEM
from proxy.tls.contexts import client_context
from proxy.waiting import together

LIMIT = 2.0
"""Seconds for the answer of a proxy; `fairlead top` asks each second or two."""
AT_A_TIME = 32
"""Questions under way."""
LARGEST = 4 * 2**20
"""Bytes of an answer: 8,000 services."""


class FleetCalls:
    """Owns the signatures that others have used here."""

    def __init__(self) -> None:
        self._signatures = Signatures()

    async def refusal(self, settings: Settings, value: str, target: str) -> str:
        """Why a signed request is not answered; "" = it is."""
        fleet = settings.fleet
        if fleet is None or not fleet.key_file:
            return "is signed, and this proxy has no fleet.key_file"
        key = await in_thread(partial(_key, fleet.key_file), "key of the fleet")
        authority = authority_of(settings.admin.advertise)
        return self._signatures.refusal(key, value, authority, target, time.time())

    async def ask(
        self, settings: Settings, id_: str, path: str, proxies: Mapping[str, str]
    ) -> dict[str, Document | str]:
        """The answers of these proxies, id → URL; a text says why there is none."""
        fleet = settings.fleet
        if fleet is None or not fleet.key_file:
            return dict.fromkeys(proxies, "fleet.key_file is needed at all proxies")
        key = await in_thread(partial(_key, fleet.key_file), "key of the fleet")
        ca = None
        if fleet.ca:
            ca = await in_thread(partial(files.read, fleet.ca, LARGEST_PEM), "CA of the fleet")
        connector = aiohttp.TCPConnector(ssl=client_context(ca), limit=AT_A_TIME)
        timeout = aiohttp.ClientTimeout(total=LIMIT)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False
        ) as session:

            async def one(other: str, url: str) -> tuple[str, Document | str]:
                return other, await _answer(session, key, id_, url, path)

            works = [partial(one, *pair) for pair in proxies.items()]
            return dict(await together(AT_A_TIME, works))


async def _answer(
    session: aiohttp.ClientSession, key: bytes, id_: str, url: str, path: str
) -> Document | str:
    authority = authority_of(url)
    if not authority:
        return "has no admin.advertise with https:"
    value = sign(key, id_, authority, path, time.time(), os.urandom(16))
    headers = {"Authorization": value, "Accept": "application/json"}
    try:
        async with session.get(url + path, headers=headers, allow_redirects=False) as answer:
            body = await answer.content.read(LARGEST + 1)
            while chunk := await answer.content.read(LARGEST + 1):
                body += chunk
                if len(body) > LARGEST:
                    break
            if answer.status != 200:
                return f"status {answer.status}: {body[:200].decode(errors='replace')}"
            if len(body) > LARGEST:
                return f"more than {LARGEST} bytes"
            return msgspec.json.decode(body, type=Document)
    except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError) as error:
        return str(error) or f"no answer within {LIMIT:g} s"
    except (ValueError, RecursionError) as error:
        return f"no list of services: {error}"


def _key(path: str) -> bytes:
    return files.read(path, LARGEST_KEY).strip()


def as_document(found: Any) -> Document:
    """Make of the own list what another would tell."""
    return msgspec.convert(found, Document)
