"""Client-side balancing for aiohttp: `session.get("http://users/42")` goes to an instance of
service `users`.

The mechanism is aiohttp's client middleware, which sees every request after its headers are
made and before it is connected: choosing an instance is giving the request another address
there. So it works with whatever else a `ClientSession` can do: redirects and cookies go by the
service's name, web sockets are balanced as well, `Host` stays what the caller wrote.
docs/decisions/0005-client-balancing.md compares the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import structlog
from aiohttp import payload

from proxy.discovery.discovery import Discovery, NotReady
from proxy.discovery.pool import Node, Pool, builder

log = structlog.get_logger()

Key = Callable[[aiohttp.ClientRequest], str | bytes | None]
"""The part of a request that decides its instance; None = nothing, any instance."""

CONNECT_LIMIT = 3.0
"""Seconds to connect to one instance, as in the proxy: aiohttp's own 30 s would spend a user's
patience on the first of two instances."""

KEEPALIVE = 4.0
"""Seconds a connection may idle: Node.js closes at 5 s, and a request that is sent into a
connection being closed is lost."""

READY_LIMIT = 3.0
"""Seconds a request waits for the first full list of the registry."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2."""


class NoInstance(aiohttp.ClientConnectionError):
    """The service has no usable instance, or the registry has never answered. The text lists
    who there is and why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """How requests to one service are spread. ValueError for what cannot work."""

    balancer: str = "round_robin"
    """A name of the catalogue: round_robin, weighted_round_robin, random, least_connections,
    consistent_hash."""
    params: Mapping[str, int | float] = field(default_factory=dict)
    """The balancer's parameters, such as `virtual_nodes`."""
    key: Key | None = None
    """For consistent_hash. The same text leads to the same instance as in the proxy."""
    max_retries: int = 1
    """Tries on other instances after the first could not be connected to."""
    retry_statuses: Collection[int] = ()
    """Answers after which another instance is tried too, if the method is idempotent and the
    body is empty or in memory. When all tries fail, the last answer is handed over."""

    def __post_init__(self) -> None:
        builder(self.balancer, dict(self.params))
        if self.max_retries < 0:
            raise ValueError(f"max_retries: {self.max_retries}: must be at least 0")


class BalancingMiddleware:
    """Owns a pool for each service that was asked for, and the requests in flight on it.

    For sessions built by hand: `aiohttp.ClientSession(middlewares=[BalancingMiddleware(...)])`.
    It should be the last of them, so that the others see the service's name.

    `services`: how to balance each service, as `Balancing` or the name of a balancer; all
    others get `default`. `hosts`: which hosts name a service: `*.svc` is any host that ends in
    `.svc`, and always a service; `*` is any host that is a service of the registry or of
    `services`. A URL with a port is never a service: it names a place. Other hosts are left
    alone.
    """

    def __init__(
        self,
        discovery: Discovery,
        *,
        services: Mapping[str, Balancing | str] | None = None,
        default: Balancing | str = "round_robin",
        hosts: Sequence[str] = ("*",),
        rng: Random | None = None,
    ) -> None:
        self._discovery = discovery
        self._balancing = {name: _balancing(how) for name, how in (services or {}).items()}
        self._default = _balancing(default)
        self._suffixes, self._any = _suffixes(hosts)
        self._rng = rng or Random()
        self._pools: dict[str, Pool] = {}
        self._spelling: dict[str, str] = {}
        """Host → service, where they differ."""

    def in_flight(self, service: str) -> dict[str, int]:
        """Requests in flight from here, by id of those instances that are registered."""
        pool = self._pools.get(service)
        return {} if pool is None else {node.id: node.load for node in pool.nodes}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        service = await self._service(request)
        if service is None:
            return await handler(request)
        balancing = self._balancing.get(service, self._default)
        pool = self._pools.get(service)
        if pool is None:
            pool = Pool(builder(balancing.balancer, dict(balancing.params)), self._rng)
            if self._discovery.instances(service):  # Else any host of a suffix would leave one.
                self._pools[service] = pool
        return await self._send(service, balancing, pool, request, handler)

    async def _send(
        self,
        service: str,
        balancing: Balancing,
        pool: Pool,
        request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
    ) -> aiohttp.ClientResponse:
        """Try instances until one answers. A request that could not be connected was not sent,
        so any method and any body may be tried again."""
        key = _key(balancing, request)
        named = request.url
        tried: list[Node] = []
        answer: aiohttp.ClientResponse | None = None
        failure: Exception | None = None
        try:
            while len(tried) <= balancing.max_retries:
                pool.follow(self._discovery.instances(service))
                node = pool.pick(key, tried)
                if node is None:
                    break
                tried.append(node)
                self._discovery.metrics.selected(service, balancing.balancer, node.id)
                _direct(request, named, node)
                try:
                    later = await _counted(pool, node, request, handler)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                    if isinstance(error, aiohttp.ClientProxyConnectionError):
                        raise  # It never got as far as an instance.
                    log.info(
                        "instance_not_reached", service=service, instance=node.id, error=str(error)
                    )
                    failure = error
                    continue
                if answer is not None:
                    answer.release()
                answer = later
                if answer.status not in balancing.retry_statuses or not _repeatable(request):
                    break
        except BaseException:
            if answer is not None:
                answer.close()
            raise
        if answer is not None:
            return answer
        if failure is not None:
            raise failure
        raise NoInstance(f"service {service!r}: {_why(pool)}")

    async def _service(self, request: aiohttp.ClientRequest) -> str | None:
        """The service that a request names, or None for a host that is none."""
        url = request.url
        host = url.host
        if host is None or url.explicit_port is not None:
            return None
        name = next((host.removesuffix(s) for s in self._suffixes if host.endswith(s)), None)
        wanted = name is not None or host in self._balancing or host in self._pools
        if not wanted and (not self._any or "." in host or ":" in host):
            return None
        try:
            if not self._discovery.ready:
                await self._discovery.wait_ready(READY_LIMIT)
            return self._spelt(name or host) or (name or host if wanted else None)
        except NotReady as error:
            if not wanted:
                return None
            raise NoInstance(f"service {name or host!r}: {error}") from error

    def _spelt(self, host: str) -> str | None:
        """The service of that name. Hosts are in lower case (RFC 3986 section 3.2.2), services
        of the registry need not be."""
        for name in (host, self._spelling.get(host, "")):
            if self._discovery.instances(name):
                return name
        found = next((s for s in self._discovery.services() if s.lower() == host), None)
        if found is not None:
            self._spelling[host] = found
        return found


def DiscoverySession(
    discovery: Discovery,
    *,
    services: Mapping[str, Balancing | str] | None = None,
    default: Balancing | str = "round_robin",
    hosts: Sequence[str] = ("*",),
    rng: Random | None = None,
    middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
    **options: Any,
) -> aiohttp.ClientSession:
    """An `aiohttp.ClientSession` in which the names of services are hosts.

    `services`, `default` and `hosts` are those of `BalancingMiddleware`; `options` are
    aiohttp's own. Where they say nothing, connecting takes at most 3 s and connections idle for
    at most 4 s. Call it inside the event loop, as aiohttp's class.
    """
    balancing = BalancingMiddleware(
        discovery, services=services, default=default, hosts=hosts, rng=rng
    )
    options.setdefault("timeout", aiohttp.ClientTimeout(total=300, sock_connect=CONNECT_LIMIT))
    if options.get("connector") is None:
        options["connector"] = aiohttp.TCPConnector(keepalive_timeout=KEEPALIVE)
        options["connector_owner"] = True
    return aiohttp.ClientSession(middlewares=(*middlewares, balancing), **options)


async def _counted(
    pool: Pool,
    node: Node,
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Send to one instance; in flight until the connection is given back: when the answer is
    read to its end, released, closed, or forgotten."""
    pool.take(node)
    try:
        response = await handler(request)
    except BaseException:  # cancellation is one
        pool.release(node)
        raise
    connection = response.connection
    if connection is None:  # A short answer was read whole with its head.
        pool.release(node)
    else:
        connection.add_callback(lambda: pool.release(node))
    return response


def _direct(request: aiohttp.ClientRequest, named: Any, node: Node) -> None:
    """Point a request at an instance. Its `Host`, cookies and certificate go by the name."""
    request.url = named.with_host(node.address).with_port(node.port)
    if named.scheme in ("https", "wss") and request.server_hostname is None:
        request.server_hostname = named.host


def _key(balancing: Balancing, request: aiohttp.ClientRequest) -> bytes | None:
    key = None if balancing.key is None else balancing.key(request)
    return key.encode() if isinstance(key, str) else key


def _repeatable(request: aiohttp.ClientRequest) -> bool:
    body = request.body
    return request.method in IDEMPOTENT and (not body or isinstance(body, payload.BytesPayload))


def _why(pool: Pool) -> str:
    if not pool.nodes:
        return "nobody is registered"
    shown = [f"{node.id}: {node.reason or node.status}" for node in pool.nodes][:5]
    more = len(pool.nodes) - len(shown)
    return f"no usable instance ({'; '.join(shown)}{f'; and {more} more' if more else ''})"


def _balancing(how: Balancing | str) -> Balancing:
    return Balancing(balancer=how) if isinstance(how, str) else how


def _suffixes(hosts: Sequence[str]) -> tuple[list[str], bool]:
    """`["*", "*.svc"]` → ([".svc"], True), the longest suffix first."""
    if isinstance(hosts, str):
        hosts = (hosts,)
    for host in hosts:
        if host != "*" and not (host.startswith("*.") and len(host) > 2 and "*" not in host[1:]):
            raise ValueError(f"hosts: {host!r}: allowed are * and *.suffix")
    suffixes = {host[1:].lower() for host in hosts if host != "*"}
    return sorted(suffixes, key=len, reverse=True), "*" in hosts
