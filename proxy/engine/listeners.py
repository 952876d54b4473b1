"""The listeners of a worker, from one configuration to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from random import Random

from proxy.engine.filters import Links
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.tls.certificates import ServerCertificates
from proxy.http.messages import CRLF
from proxy.http.request_id import IdField
from proxy.messages import WorkerConfig


class Listeners:
    """Owns the facts of all listeners, as the configuration in force has them."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._by_name: dict[str, ListenerConfig] = {}  # ≤ 1 KiB + 64 KiB per listener
        self._next_id = _request_ids(rng, b"", b"").__next__
        """For listeners without a field for it."""

    def __getitem__(self, name: str) -> ListenerConfig:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def certificates(self, name: str) -> ServerCertificates | None:
        """Certificates of a listener with TLS, if there is one of that name."""
        listener = self._by_name.get(name)
        return None if listener is None else listener.certificates

    def prepare(
        self, config: WorkerConfig, renamed: Mapping[str, ListenerCounts]
    ) -> dict[str, ListenerConfig]:
        """Facts of all listeners for another configuration, for `use`; they go on where those of
        the one in force are. `renamed`: counts of those that had other names."""
        via = b"Via: 1.1 fairlead (%b)\r\n" % config.via_token.encode("ascii")
        listeners = {}
        for settings in config.listeners:  # ≤ listeners
            before = self._by_name.get(settings.name)
            certificates = self.certificates(settings.name)
            if settings.tls is None:
                certificates = None
            elif certificates is None:
                certificates = ServerCertificates(settings.tls, settings.alpn)
            listeners[settings.name] = ListenerConfig(
                settings,
                via,
                config.workers,
                self._ids(settings.request_id_header),
                certificates,
                renamed.get(settings.name) if before is None else before.counts,
            )
        return listeners

    def leave(self) -> None:
        """Let all answers end their connections from here on."""
        for listener in self._by_name.values():  # ≤ listeners
            listener.counts.leaving = True

    def use(self, listeners: dict[str, ListenerConfig], filters: dict[str, Links]) -> None:
        """Put in force what `prepare` has made, and these filters of each."""
        self._by_name = listeners
        for name, listener in listeners.items():  # ≤ listeners
            listener.counts.filters = filters[name]
            if listener.certificates is not None and listener.settings.tls is not None:
                listener.certificates.configure(listener.settings.tls, listener.settings.alpn)

    def _ids(self, header: str | None) -> IdField:
        if header is None:
            return IdField(None, bytes, self._next_id)
        start = header.encode("ascii") + b": "
        return IdField(header, _request_ids(self._rng, start, CRLF).__next__, self._next_id)


def _request_ids(rng: Random, start: bytes, end: bytes) -> Iterator[bytes]:
    """Ids between `start` and `end`, unique for all practical purposes: 64 random bits and a count
    in hexadecimal, whose last digits are only formatted once."""
    prefix = b"%b%016x-" % (start, rng.getrandbits(64))
    ends = [b"%02x%b" % (number, end) for number in range(256)]
    for high in count():  # ≤ 1
        begin = b"%b%x" % (prefix, high)
        for end in ends:  # ≤ requests
            yield begin + end
