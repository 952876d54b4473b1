"""The admin server: reads live state; changes what an operator drains and a service registers.

Who may ask what is decided in `admin_access.py`, how many may at a time in `admin_connections.py`.
Errors are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

import proxy
from proxy.control import events, metrics, status
from proxy.control.admin_access import Access, denied_caller, denied_origin, denied_token
from proxy.control.admin_connections import Connection, read_body
from proxy.control.admin_front import Front
from proxy.control.admin_pages import OPEN_PATHS as PAGES
from proxy.control.admin_pages import Pages, quality, wants_page
from proxy.control.admin_paths import BadPath, Paths, split_target
from proxy.control.explain import explain
from proxy.control.metrics_page import MetricsPage
from proxy.control.part import part_of
from proxy.control.registrations import MAX_BODY, Refusal, Registrations
from proxy.control.running_changes import RunningChanges, json_answer
from proxy.control.shared import Shared
from proxy.control.statistics import Totals
from proxy.control.supervisor import Supervisor
from proxy.settings.file import Settings
from proxy.settings.instances import WEIGHT
from proxy.settings.process import AdminSettings
from proxy.settings.tree import Scalar

log = structlog.get_logger()

HEARTBEAT = 15.0
"""Seconds of silence after which a listener for events gets a comment: half the idle limit of
the strictest common proxies, and the way to learn that a listener is gone."""

WRITE_LIMIT = 10.0
"""Seconds a listener may take to read what was sent to it; then it is cut off."""

PACE = 0.01
"""Seconds from one question to the workers for their counters to the next: however many ask the
admin server, a worker answers a hundred times a second at most."""

LAST_ANSWERS = 1.0
"""Seconds for requests that are there when everything ends. Answers take milliseconds; whoever
still reads after a second is left alone."""

FINISH = 5.0
"""Seconds for requests that are there when another address takes over, or other rules do."""

Handler = Callable[..., Awaitable[web.StreamResponse]]
"""Takes the request, and the names in its path."""

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths for load balancers and orchestrators, which cannot send a token and call by any name."""


class Admin:
    """Owns the admin HTTP server and its socket; reads the supervisor."""

    def __init__(self, supervisor: Supervisor, sock: socket.socket) -> None:
        """`sock`: listening already."""
        self._supervisor = supervisor
        self.sock = sock
        self.changes = RunningChanges(supervisor)
        self.on_moved: Callable[[str, socket.socket], None] = lambda bind, sock: None
        """Hears of another address."""
        self._http = Registrations(supervisor.settings.registry.registering)
        self._totals: Shared[Totals] = Shared(supervisor.collector.collect, PACE)
        self.metrics = MetricsPage(
            supervisor,
            self._totals.get,
            lambda: {
                "admin_connections": len(self.front.door.guests),
                "admin_closed": self.front.door.closed,
                "samples": self.changes.samples(),
            },
        )
        instance = "/api/v1/services/{service}/instances/{id}"
        self._pages = Pages(lambda: self.front.access, sock.getsockname()[1])
        self._paths: Paths[Handler] = Paths(
            {
                "*": {},
                "/": {"GET": self._index},
                **self._pages.paths,
                "/healthz": {"GET": self._healthz},
                "/readyz": {"GET": self._readyz},
                "/metrics": {"GET": self._metrics},
                "/api/v1/services": {"GET": self._services},
                "/api/v1/services/{service}": {"GET": self._service},
                "/api/v1/routes": {"GET": self._routes},
                "/api/v1/registry": {"GET": self._registry},
                "/api/v1/workers": {"GET": self._workers},
                "/api/v1/restart-workers": {"POST": self.changes.restart_workers},
                "/api/v1/certificates": {"GET": self._certificates},
                "/api/v1/fleet": {"GET": self.changes.list_fleet},
                "/api/v1/fleet/services": {"GET": self.changes.fleet_services},
                "/api/v1/config": {"GET": self.changes.config},
                "/api/v1/reload": {"POST": self.changes.reload},
                "/api/v1/upgrade": {"POST": self.changes.upgrade},
                "/api/v1/explain": {"GET": self._explain},
                "/api/v1/events": {"GET": self._events},
                "/api/v1/registrations": {"GET": self._registrations},
                instance: {"PUT": self._register, "DELETE": self._deregister},
                f"{instance}/drain": {"POST": self._drain},
                f"{instance}/undrain": {"POST": self._undrain},
                f"{instance}/weight": {"POST": self._weigh},
                f"{instance}/heartbeat": {"POST": self._heartbeat},
            }
        )
        self._settings = supervisor.settings.admin
        self.front = self._new_front(sock, self._settings)
        self._leaving: dict[asyncio.Task[None], Front] = {}
        """Fronts that finish what they have."""

    def _new_front(
        self, sock: socket.socket, settings: AdminSettings, closed: Counter[str] | None = None
    ) -> Front:
        return Front(
            self._serve, sock, settings, lambda: self._supervisor.certificates.admin, closed
        )

    async def start(self) -> None:
        """Begin to answer."""
        await self.front.start()

    async def follow(self, settings: Settings, sock: socket.socket) -> None:
        """Go on with another configuration, which the supervisor has by now. `sock`: as for
        `__init__`, or the one that there is."""
        try:
            await self._http.follow(settings.registry.registering)
        except Exception:
            log.exception("http_registrations_not_moved")
        if sock is self.sock and settings.admin == self._settings:
            return
        before = self.front
        front = self._new_front(sock, settings.admin, before.door.closed)
        await front.start()
        if sock is not self.sock:
            self.on_moved(settings.admin.bind, sock)
            self.sock.close()
        for one in (before, *self._leaving.values()):
            one.follow(front.access)
        self.sock, self._settings, self.front = sock, settings.admin, front
        task = asyncio.create_task(before.leave(FINISH), name="admin connections from before")
        self._leaving[task] = before
        task.add_done_callback(self._leaving.pop)

    async def stop_accepting(self) -> None:
        """Leave new connections to another process; those there are go on."""
        await self.front.stop_accepting()

    async def close(self) -> None:
        """Stop answering and close the socket."""
        for front in self._leaving.values():
            front.abort()
        await asyncio.gather(*self._leaving, self.front.close(LAST_ANSWERS))
        self.sock.close()
        await self.metrics.close()
        await self._totals.close()
        await self._http.close()

    # ------------------------------------------------------------------------ a request

    async def _serve(self, access: Access, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving(request):
            response = await self.answer(access, request)
            # Written here already, so that the limit of the request holds for it.
            await response.prepare(request)
            await response.write_eof()
        return response

    async def answer(self, access: Access, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, whatever happens."""
        try:
            return await self._handle(access, request)
        except Refusal as refusal:
            return _problem(refusal)
        except ConnectionError:
            raise
        except Exception:
            log.exception("admin_request_failed", method=request.method, path=request.raw_path)
            return _problem(Refusal(500, "the log has the details"))

    async def _handle(self, access: Access, request: web.BaseRequest) -> web.StreamResponse:
        if request.version not in (HttpVersion10, HttpVersion11):
            raise Refusal(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
        authority, path = split_target(request.raw_path)
        if path not in OPEN_PATHS:
            page = path in PAGES and (path != "/" or wants_page(request))
            signed = await self.changes.is_signed(request)
            needed = None if page or signed else self._pages.authorization(request)
            _admit(access, request, authority, needed)
        try:
            found = self._paths.find(path)
        except BadPath as error:
            raise Refusal(400, str(error)) from None
        method = request.method
        if found is None:
            raise Refusal(
                404,
                "there is no such path; GET / as application/json lists them",
            )
        if method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": found.allow})
        handler = found.handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise Refusal(
                405, f"{method[:20]} is not for this path", headers={"Allow": found.allow}
            )
        return await handler(request, *found.names)

    # ------------------------------------------------------------------------- documents

    async def _index(self, request: web.BaseRequest) -> web.Response:
        if wants_page(request):
            return self._pages.index(request)
        paths = [path for path in self._paths.patterns if path not in ("*", "/")]
        return json_answer({"name": "fairlead", "version": proxy.__version__, "paths": paths})

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        return json_answer({"alive": True})

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        missing = self._supervisor.missing()
        return json_answer(status.readiness(missing), 503 if missing else 200)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        instances = request.query.get("instances", "on")
        if instances not in ("on", "off"):
            raise Refusal(400, f"instances: {instances[:20]!r}: must be on or off")
        page, kind = await self.metrics.get(instances=instances == "on"), metrics.CONTENT_TYPE
        wanted = quality(request, metrics.OPENMETRICS.partition(";")[0])
        if wanted and wanted >= quality(request, "text/plain"):
            exporter = self._supervisor.exporter
            exemplars = None if exporter is None else exporter.exemplars
            page, kind = metrics.openmetrics(page, exemplars), metrics.OPENMETRICS
        return web.Response(body=page, headers={"Content-Type": kind, "Vary": "Accept"})

    async def _services(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        totals = await self._totals.get()
        pools, registry = supervisor.pools, supervisor.registry
        left = pools.slots.left()
        return json_answer(
            status.services(pools.by_service, supervisor.settings, totals, registry, left)
        )

    async def _service(self, request: web.BaseRequest, name: str) -> web.Response:
        supervisor = self._supervisor
        registry, pools = supervisor.registry, supervisor.pools
        left = pools.slots.left()
        pool = status.known(pools.by_service, supervisor.settings, registry, left).get(name)
        if pool is None:
            raise Refusal(404, f"no service {name!r}")
        totals = await self._totals.get()
        settings = status.settings_of(supervisor.settings, name)
        part = part_of(request.query)
        now = time.monotonic()
        return json_answer(
            status.service(
                pool, settings, totals, supervisor.board.total, now, registry, part, left
            )
        )

    async def _drain(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        return await self._set_drain(request, service, id_, True)

    async def _undrain(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        return await self._set_drain(request, service, id_, False)

    async def _set_drain(
        self, request: web.BaseRequest, service: str, id_: str, on: bool
    ) -> web.Response:
        if request.query.get("everywhere", "") in ("1", "true"):
            await self.changes.mark(request, service, id_, on)
        elif not self._supervisor.by_hand.drain(service, id_, on):
            raise Refusal(404, f"no instance {id_!r} of a service {service!r}")
        return json_answer({"service": service, "instance": id_, "drained": on})

    async def _weigh(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        text = request.query.get("weight", "")
        try:
            weight = WEIGHT(Scalar(text))
        except ValueError as error:
            raise Refusal(400, f"weight: {error}") from None
        if not self._supervisor.by_hand.weigh(service, id_, weight):
            raise Refusal(404, f"no instance {id_!r} of a service {service!r}")
        return json_answer({"service": service, "instance": id_, "weight": weight})

    async def _register(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        if service in self._supervisor.settings.static:
            raise Refusal(
                409,
                f"the instances of {service!r} stand in proxy.yaml; what is registered for it"
                " would be ignored",
            )
        new, document = await self._http.put((service, id_), await read_body(request, MAX_BODY))
        known = document["state"] == "registered"
        return json_answer(document, 202 if not known else 201 if new else 200)

    async def _deregister(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        await self._http.delete((service, id_))
        return web.Response(status=204)

    async def _heartbeat(self, request: web.BaseRequest, service: str, id_: str) -> web.Response:
        return json_answer(self._http.heartbeat((service, id_)))

    async def _registrations(self, request: web.BaseRequest) -> web.Response:
        return json_answer({"registrations": self._http.documents()})

    async def _events(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        if request.method == "HEAD":
            return response
        if request.query.get("kept") == "only":
            kept = b"".join(self._supervisor.events.kept())
            return web.Response(body=kept, headers=response.headers)
        # Of an application that we are part of the limits are its own.
        connection = request.protocol if isinstance(request.protocol, Connection) else None
        try:
            with self._supervisor.events.listen(request.query.get("kept") == "on") as listener:
                if connection is not None:
                    connection.stream()
                await response.prepare(request)
                await self._send(response, b": connected\n\n")
                while True:
                    if not await listener.wait(HEARTBEAT):
                        await self._send(response, b":\n\n")
                        continue
                    waiting, lost = listener.take()
                    if lost:
                        await self._send(response, b'event: lost\ndata: {"count":%d}\n\n' % lost)
                    await self._send(response, b"".join(waiting))
        except events.TooManyListeners:
            raise Refusal(503, "too many listen to events already") from None
        except (ConnectionError, TimeoutError):
            log.debug("events_listener_gone", peer=request.remote)
            if connection is not None:
                connection.end()
        return response

    @staticmethod
    async def _send(response: web.StreamResponse, text: bytes) -> None:
        async with asyncio.timeout(WRITE_LIMIT):
            await response.write(text)

    async def _routes(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        brought = supervisor.brought.claims.document()
        return json_answer(status.routes(supervisor.settings.routes) | brought)

    async def _registry(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        return json_answer(status.registry(supervisor.registry, supervisor.pools.complete))

    async def _workers(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        await self._totals.get()
        return json_answer(status.workers(supervisor.crew.places, time.monotonic()))

    async def _certificates(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        acme = supervisor.orders.acme
        names = {} if acme is None else acme.names
        document = status.certificates(supervisor.certificates, supervisor.workers)
        return json_answer({**document, "acme": status.acme(names)})

    async def _explain(self, request: web.BaseRequest) -> web.Response:
        supervisor = self._supervisor
        url = request.query.get("url", "")
        if not url:
            raise Refusal(400, "url: missing; an absolute URL or a path is needed")
        fields = []
        for text in request.query.getall("header", []):
            name, colon, value = text.partition(":")
            if not colon or not name.strip():
                raise Refusal(400, f"header: {text!r}: must be NAME:VALUE")
            fields.append((name.strip(), value.strip()))
        method = request.query.get("method", "GET")
        totals = await self._totals.get()
        try:
            pools = supervisor.pools
            document = explain(
                method,
                url,
                fields,
                pools.by_service,
                supervisor.settings,
                totals,
                pools.complete,
                time.monotonic(),
                supervisor.board,
                supervisor.brought.claims,
                request.query.get("caller", ""),
                supervisor.share.value,
            )
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        return json_answer(document)


def _admit(
    access: Access, request: web.BaseRequest, authority: str | None, session: str | None
) -> None:
    """Refusal for who may not ask this. `session`: value of Authorization that a session stands
    for; None = no token is needed."""
    hosts = request.headers.getall("Host", [])
    # HTTP/1.0 has no Host field, and no browser speaks it.
    if len(hosts) > 1 or not (hosts or request.version == HttpVersion10):
        raise Refusal(400, f"{len(hosts)} Host fields; exactly one is needed")
    authorities = hosts if authority is None else [*hosts, authority]
    method = request.method
    authorization = None
    if session is not None:
        authorization = request.headers.get("Authorization", "") or session
    for denial in (
        denied_caller(authorities, access),
        None if authorization is None else denied_token(method, authorization, access),
        denied_origin(method, request.headers),
    ):
        if denial is not None:
            raise Refusal(
                denial.status,
                denial.detail,
                headers={"WWW-Authenticate": 'Bearer realm="fairlead"'}
                if denial.status == 401
                else {},
            )


def _problem(refusal: Refusal) -> web.Response:
    document = status.problem(refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail)
    if refusal.complaints:
        document["errors"] = refusal.complaints
    headers = {"Retry-After": "30"} if refusal.status == 503 else {}
    return web.Response(
        body=msgspec.json.encode(document),
        status=refusal.status,
        content_type="application/problem+json",
        headers={**headers, **refusal.headers},
    )
