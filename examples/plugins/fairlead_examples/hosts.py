"""A registry that is a text on an HTTP server: a line `service host:port` for each instance.

`Polled` decides how far an answer is believed, says what was lost, and tries one endpoint after the
other; here stands the question.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec

from proxy.registry.base import RegistryError
from proxy.registry.belief import Answer
from proxy.registry.followed import Timing
from proxy.registry.polled import Polled
from proxy.registry.records import read, service_of, split_key
from proxy.registry.rest import RestEndpoint
from proxy.registry.roster import Roster, single
from proxy.settings.addresses import URL
from proxy.settings.declare import Distinct
from proxy.settings.read import POSITIVE
from proxy.settings.registry import RemoteOptions


class HostsOptions(RemoteOptions, frozen=True, kw_only=True):
    """Keys of `registry:` beside `type`."""

    endpoints: Annotated[tuple[str, ...], URL, Distinct(), "URLs of the text. Required."] = ()
    interval: Annotated[float, POSITIVE, "Time between two questions."] = 5.0


class HostsProvider(Polled[RestEndpoint]):
    """Owns the connections to servers that all have the text."""

    name = "hosts"
    Options = HostsOptions

    def __init__(self, options: HostsOptions) -> None:
        roster = Roster(
            single(lambda key, value: read(*split_key(key, b""), value)),
            partial(service_of, prefix=b""),
        )
        servers = [RestEndpoint(url, tls=options.tls) for url in options.endpoints]
        super().__init__(servers, roster, timing=Timing(probe=options.interval))

    async def _poll(self, connection: RestEndpoint) -> Answer:
        answer = await connection.get("", timeout=self._timing.probe_limit)
        records = {}
        for line in answer.body.decode(errors="replace").splitlines():
            service, _, endpoint = line.partition(" ")
            address, found, port = endpoint.rpartition(":")
            if not found:
                raise RegistryError(f"not a list of hosts: {line[:60]!r}")
            record = msgspec.json.encode({"address": address, "port": port})
            records[f"{service}/{endpoint}".encode()] = record
        return Answer(records=records, source=connection.url)
