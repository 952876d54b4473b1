"""The admin server: reads live state; changes what an operator drains and a service registers.

Everything but /healthz and /readyz asks for the bearer token, if one is configured. Errors
are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from aiohttp import web

import proxy
from proxy import log as log_setup
from proxy.control import events, metrics, status
from proxy.control.explain import explain
from proxy.control.registrations import Complaint, Refusal, Registrations
from proxy.control.supervisor import Supervisor

log = structlog.get_logger()

HEARTBEAT = 15.0
"""Seconds of silence after which a listener for events gets a comment: half the idle limit of
the strictest common proxies, and the way to learn that a listener is gone."""

SCRAPE_SLICE = 0.002
"""Seconds of a scrape between two turns of the loop: with 20,000 instances it takes a quarter of a
second, in which the pools change."""

WRITE_LIMIT = 10.0
"""Seconds a listener may take to read what was sent to it; then it is cut off."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What load balancers and orchestrators ask, which cannot send a token."""


class Admin:
    """Owns the admin HTTP server; reads the supervisor."""

    def __init__(self, supervisor: Supervisor, sock: socket.socket, token: str) -> None:
        """`sock`: listening already, owned by the caller. `token`: "" = no token asked."""
        self._supervisor = supervisor
        self._socket = sock
        self._token = token.encode(errors="surrogateescape")
        self._http = Registrations(supervisor.settings.registry)
        application = web.Application(middlewares=[self._problems, self._authorize])
        application.add_routes(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/services", self._services),
                web.get("/api/v1/services/{service}", self._service),
                web.get("/api/v1/routes", self._routes),
                web.get("/api/v1/registry", self._registry),
                web.get("/api/v1/workers", self._workers),
                web.get("/api/v1/explain", self._explain),
                web.get("/api/v1/events", self._events),
                web.post("/api/v1/services/{service}/instances/{id}/drain", self._drain),
                web.post("/api/v1/services/{service}/instances/{id}/undrain", self._drain),
                web.put("/api/v1/services/{service}/instances/{id}", self._register),
                web.delete("/api/v1/services/{service}/instances/{id}", self._deregister),
                web.post("/api/v1/services/{service}/instances/{id}/heartbeat", self._heartbeat),
                web.get("/api/v1/registrations", self._registrations),
            ]
        )
        self._application = application
        # Answers take milliseconds; whoever still reads after a second is left alone.
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=1.0
        )

    async def start(self) -> None:
        """Begin to answer."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        """Stop answering and close the socket."""
        await self._runner.cleanup()
        await self._http.close()

    # --------------------------------------------------------------------- middlewares

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _problem(error.status, error.reason, error.text or "", headers)
        except Refusal as refusal:
            title = HTTPStatus(refusal.status).phrase
            headers = {"Retry-After": "30"} if refusal.status == 503 else {}
            return _problem(
                refusal.status, title, refusal.detail, headers, errors=refusal.complaints
            )
        except Exception:
            log.exception("admin_request_failed", method=request.method, path=request.path)
            return _problem(500, "Internal Server Error", "the log has the details", {})

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and request.path not in OPEN_PATHS:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            # Compared in constant time, so that the answer's delay says nothing.
            right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token)
            if scheme.lower() != "bearer" or not right:
                challenge = {"WWW-Authenticate": 'Bearer realm="fairlead"'}
                return _problem(401, "Unauthorized", "a bearer token is needed", challenge)
        return await handler(request)

    # ------------------------------------------------------------------------ handlers

    async def _index(self, request: web.Request) -> web.Response:
        paths = sorted(
            resource.canonical
            for resource in self._application.router.resources()
            if resource.canonical != "/"
        )
        return _json({"name": "fairlead", "version": proxy.__version__, "paths": paths})

    async def _healthz(self, request: web.Request) -> web.Response:
        return _json({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self._supervisor.missing()
        return _json(status.readiness(missing), 503 if missing else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        totals = await supervisor.collect()
        lives = [worker.current for worker in supervisor.workers if worker.current is not None]
        page = metrics.Page(
            metrics.Scrape(
                pools=supervisor.book.pools,
                totals=totals,
                ejections=supervisor.ejections.totals,
                refused_ejections=supervisor.ejections.refused,
                checks=supervisor.monitor.counts,
                registry=supervisor.registry,
                balancer_of=lambda service: (
                    status.settings_of(supervisor.settings, service).balancer.type
                ),
                inflight=supervisor.board.total,
                client_connections=sum(life.stats.client_connections for life in lives),
                tunnels=sum(life.stats.tunnels for life in lives),
                workers=len(lives),
                applies={worker.index: worker.applies for worker in supervisor.workers},
                log_dropped=log_setup.lost(),
            )
        )
        pause_at = time.perf_counter() + SCRAPE_SLICE
        for _ in page.steps():
            if time.perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + SCRAPE_SLICE
        return web.Response(body=page.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _services(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        totals = await supervisor.collect()
        pools, registry = supervisor.book.pools, supervisor.registry
        return _json(status.services(pools, supervisor.settings, totals, registry))

    async def _service(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        name = request.match_info["service"]
        registry = supervisor.registry
        pool = status.known(supervisor.book.pools, supervisor.settings, registry).get(name)
        if pool is None:
            raise web.HTTPNotFound(text=f"no service {name!r}")
        totals = await supervisor.collect()
        settings = status.settings_of(supervisor.settings, name)
        now = time.monotonic()
        return _json(status.service(pool, settings, totals, supervisor.board.total, now, registry))

    async def _drain(self, request: web.Request) -> web.Response:
        service, id_ = request.match_info["service"], request.match_info["id"]
        on = request.path.endswith("/drain")
        if not self._supervisor.drain_instance(service, id_, on):
            raise web.HTTPNotFound(text=f"no instance {id_!r} of a service {service!r}")
        return _json({"service": service, "instance": id_, "drained": on})

    async def _register(self, request: web.Request) -> web.Response:
        name = _instance(request)
        if name[0] in self._supervisor.settings.static:
            raise Refusal(
                409,
                f"the instances of {name[0]!r} stand in proxy.yaml; what is registered for it"
                " would be ignored",
            )
        new, document = await self._http.put(name, await request.read())
        known = document["state"] == "registered"
        return _json(document, 202 if not known else 201 if new else 200)

    async def _deregister(self, request: web.Request) -> web.Response:
        await self._http.delete(_instance(request))
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        return _json(self._http.heartbeat(_instance(request)))

    async def _registrations(self, request: web.Request) -> web.Response:
        return _json({"registrations": self._http.documents()})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        try:
            with self._supervisor.events.listen() as listener:
                await response.prepare(request)
                await self._send(response, b": connected\n\n")
                while True:
                    if not await listener.wait(HEARTBEAT):
                        await self._send(response, b":\n\n")
                        continue
                    waiting, lost = listener.take()
                    if lost:
                        await self._send(response, b'event: lost\ndata: {"count":%d}\n\n' % lost)
                    await self._send(response, b"".join(map(events.encode, waiting)))
        except events.TooManyListeners:
            raise web.HTTPServiceUnavailable(text="too many listeners for events") from None
        except (ConnectionError, TimeoutError):
            log.info("events_listener_gone", peer=request.remote)
        return response

    @staticmethod
    async def _send(response: web.StreamResponse, text: bytes) -> None:
        async with asyncio.timeout(WRITE_LIMIT):
            await response.write(text)

    async def _routes(self, request: web.Request) -> web.Response:
        return _json(status.routes(self._supervisor.settings.routes))

    async def _registry(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        return _json(status.registry(supervisor.registry, supervisor.book.complete))

    async def _workers(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        await supervisor.collect()
        return _json(status.workers(supervisor.workers, time.monotonic()))

    async def _explain(self, request: web.Request) -> web.Response:
        supervisor = self._supervisor
        url = request.query.get("url", "")
        if not url:
            raise web.HTTPBadRequest(text="url: missing; an absolute URL or a path is needed")
        fields = []
        for text in request.query.getall("header", []):
            name, colon, value = text.partition(":")
            if not colon or not name.strip():
                raise web.HTTPBadRequest(text=f"header: {text!r}: must be NAME:VALUE")
            fields.append((name.strip(), value.strip()))
        method = request.query.get("method", "GET")
        totals = await supervisor.collect()
        try:
            book = supervisor.book
            document = explain(
                method,
                url,
                fields,
                book.pools,
                supervisor.settings,
                totals,
                book.complete,
                time.monotonic(),
            )
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return _json(document)


def _json(document: Any, status_: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status_, content_type="application/json"
    )


def _instance(request: web.Request) -> tuple[str, str]:
    return request.match_info["service"], request.match_info["id"]


def _problem(
    code: int,
    title: str,
    detail: str,
    headers: dict[str, str],
    *,
    errors: Sequence[Complaint] = (),
) -> web.Response:
    # aiohttp's own text repeats the status line; only a text of ours says more.
    own = "" if detail == f"{code}: {title}" else detail
    document = status.problem(code, title, own)
    if errors:
        document["errors"] = errors
    return web.Response(
        body=msgspec.json.encode(document),
        status=code,
        content_type="application/problem+json",
        headers=headers,
    )
