"""Changes of the running proxy as a whole, as operators ask the admin server for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import msgspec
import structlog
from aiohttp import web

from proxy.control import status
from proxy.control.admin_access import READING
from proxy.control.admin_connections import Connection
from proxy.control.fleet import Fleet, NoFleet
from proxy.control.fleet_calls import FleetCalls, as_document
from proxy.control.registrations import Refusal
from proxy.control.relay import Relay
from proxy.control.reload import Reloads
from proxy.control.shared_config import proxy_id
from proxy.control.supervisor import Supervisor
from proxy.fleet.merged import Document, merge
from proxy.fleet.signing import ASKED, SCHEME
from proxy.settings.changes import without_secrets

log = structlog.get_logger()


def json_answer(document: Any, status: int = 200) -> web.Response:
    """An answer with a JSON document."""
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )


class RunningChanges:
    """Owns the ways to change a proxy that runs, as far as there are any."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.reloads: Reloads | None = None
        """Reloads the configuration; None = it was read from no file."""
        self.start_successor: Callable[[str], Awaitable[str]] | None = None
        """Upgrades, see `ParentLink.upgrade`; None = there is no parent."""

        self.fleet = Fleet(supervisor)
        self.calls = FleetCalls()
        self.relay = Relay(supervisor.own, lambda: supervisor.certificates.relay)

    def follow(self) -> None:
        """Have what lies outside this machine go by the settings in force."""
        self.fleet.follow()
        self.relay.follow(self._supervisor.settings)

    def leave(self) -> None:
        """Leave that to a successor."""
        self.fleet.leave()
        self.relay.leave()

    def samples(self) -> Iterable[tuple[str, Mapping[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        reloads = () if self.reloads is None else self.reloads.samples()
        supervisor = self._supervisor
        owners = supervisor.brought.claims, supervisor.share, self.relay
        return chain(reloads, *(one.samples() for one in owners))

    async def config(self, request: web.BaseRequest) -> web.Response:
        """`GET /api/v1/config`: as in force, without secrets."""
        told = {} if self.reloads is None else self.reloads.document()
        return json_answer({**told, "settings": without_secrets(self._supervisor.settings)})

    async def list_fleet(self, request: web.BaseRequest) -> web.Response:
        """`GET /api/v1/fleet`."""
        try:
            return json_answer(await self.fleet.document())
        except NoFleet as error:
            raise Refusal(409, str(error)) from None

    async def fleet_services(self, request: web.BaseRequest) -> web.Response:
        """`GET /api/v1/fleet/services`: of all proxies that can be asked, in one list."""
        supervisor = self._supervisor
        settings, id_ = supervisor.settings, proxy_id(supervisor.settings)
        try:
            proxies = (await self.fleet.document())["proxies"]
        except NoFleet as error:
            raise Refusal(409, str(error)) from None
        others = {one["id"]: str(one.get("admin") or "") for one in proxies if one["id"] != id_}
        found = await self.calls.ask(settings, id_, ASKED, others)
        totals = await supervisor.collector.collect()
        pools = supervisor.pools.by_service
        own = status.services(pools, settings, totals, supervisor.registry)
        answers = {other: one for other, one in found.items() if isinstance(one, Document)}
        return json_answer(
            {
                "services": merge({id_: as_document(own), **answers}),
                "proxies": [id_, *answers],
                "not_asked": {other: one for other, one in found.items() if isinstance(one, str)},
            }
        )

    async def is_signed(self, request: web.BaseRequest) -> bool:
        """Whether another proxy of the fleet asks. Raises Refusal for a signature that is not good,
        or not for that."""
        value = request.headers.get("Authorization", "")
        if not value.startswith(SCHEME):
            return False
        settings = self._supervisor.settings
        reason = await self.calls.refusal(settings, value, request.raw_path)
        if request.method not in READING or request.raw_path != ASKED:
            reason = f"is signed, which is good for GET {ASKED} alone"
        if reason:
            log.warning("fleet_call_refused", peer=request.remote, reason=reason)
            raise Refusal(401, f"the request {reason}")
        return True

    async def mark(self, request: web.BaseRequest, service: str, id_: str, on: bool) -> None:
        """The part of `…/drain` and `…/undrain` that all proxies of the fleet obey."""
        by = request.query.get("by", "")[:128] or f"{request.remote}"
        try:
            await self.fleet.mark(service, id_, on, by)
        except NoFleet as error:
            raise Refusal(409, str(error)) from None

    async def reload(self, request: web.BaseRequest) -> web.Response:
        """`POST /api/v1/reload`."""
        if self.reloads is None:
            raise Refusal(409, "the configuration was read from no file")
        outcome = await self.reloads.reload(request.query.get("dry_run", "") in ("1", "true"))
        # The old configuration serves on: what is wrong is the file, not the question.
        return json_answer(outcome, 422 if outcome.complaints else 200)

    async def upgrade(self, request: web.BaseRequest) -> web.Response:
        """`POST /api/v1/upgrade`."""
        if self.start_successor is None:
            raise Refusal(409, "there is no parent process that could start a successor")
        reason = await self.start_successor(request.query.get("env_file", ""))
        if reason:
            raise Refusal(409, f"not upgraded: {reason}")
        return json_answer({"upgraded": True})

    async def restart_workers(self, request: web.BaseRequest) -> web.Response:
        """`POST /api/v1/restart-workers`."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.stream()  # It takes as long as it takes: each step has a limit of its own.
        # Whoever asked may leave: what has begun is brought to an end.
        error = await asyncio.shield(asyncio.ensure_future(self._supervisor.restart_workers()))
        return json_answer({"result": "failed" if error else "restarted", "error": error})
