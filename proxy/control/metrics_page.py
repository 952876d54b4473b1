"""The page of metrics, made at each scrape from live state, in turns of the loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from proxy import log as log_setup
from proxy.control import metrics, status
from proxy.control.carried_counts import CarriedCounts
from proxy.control.scrape import Scrape
from proxy.control.shared import Shared
from proxy.control.statistics import Totals
from proxy.control.supervisor import Supervisor

SCRAPE_SLICE = 0.002
"""Seconds of a scrape between two turns of the loop: with 20,000 instances it takes a quarter of a
second, in which the pools change."""


class MetricsPage:
    """Owns the page that is being made, and the counts of the processes before."""

    def __init__(
        self,
        supervisor: Supervisor,
        totals: Callable[[], Awaitable[Totals]],
        further: Callable[[], dict[str, Any]],
    ) -> None:
        """`further`: fields of `Scrape` that somebody else knows."""
        self._supervisor = supervisor
        self._totals = totals
        self._further = further
        self._page: Shared[bytes] = Shared(lambda: self._make(True))
        """With 20,000 instances it has 20 MB."""
        self._without_instances: Shared[bytes] = Shared(lambda: self._make(False))
        self.before: Callable[[], bytes] = bytes
        """The page of the processes before an upgrade; its counts are added to ours."""
        self._carried = b"", CarriedCounts(b"")
        """A page, and its counts."""

    async def get(self, *, instances: bool = True) -> bytes:
        """The page, in the text exposition format. `instances`: with samples of each."""
        return await (self._page if instances else self._without_instances).get()

    async def close(self) -> None:
        """End what is being made."""
        await self._page.close()
        await self._without_instances.close()

    async def _make(self, instances: bool) -> bytes:
        supervisor = self._supervisor
        totals = await self._totals()
        further = self._further()
        acme = supervisor.orders.acme
        lives = list(supervisor.crew.processes())
        # A worker that lives in this process is no other one.
        workers = status.pids(supervisor.crew.places)
        processes = {**{pid: name for name, pid in workers.items()}, os.getpid(): "control"}
        page = metrics.Page(
            Scrape(
                pools=supervisor.pools.by_service,
                totals=totals,
                ejections=supervisor.outliers.ejections.totals,
                refused_ejections=supervisor.outliers.ejections.refused,
                checks=supervisor.checks.counts,
                registry=supervisor.registry,
                balancer_of=lambda service: (
                    status.settings_of(supervisor.settings, service).balancer.type
                ),
                inflight=supervisor.board.total,
                client_connections=sum(life.stats.last.client_connections for life in lives),
                tunnels=sum(life.stats.last.tunnels for life in lives),
                workers=sum(1 for _ in supervisor.crew.current()),
                applies={worker.index: worker.applies for worker in supervisor.workers},
                lags={
                    one.index: one.current.stats.last.lag
                    for one in supervisor.workers
                    if one.current is not None
                },
                instances=instances,
                log_dropped=log_setup.lost(),
                samples=chain(
                    supervisor.certificates.samples(),
                    () if acme is None else acme.samples(),
                    () if supervisor.exporter is None else supervisor.exporter.samples(),
                    (("fairlead_control_lag_seconds", {}, supervisor.lag),),
                    of_http2([life.stats.last.http2 for life in lives]),
                    further.pop("samples"),
                ),
                **further,
                processes={name: pid for pid, name in processes.items()},
            )
        )
        pause_at = time.perf_counter() + SCRAPE_SLICE
        for _ in page.steps():
            if time.perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + SCRAPE_SLICE
        return await self._with_carried(page.text(), instances)

    async def _with_carried(self, page: bytes, instances: bool) -> bytes:
        before = self.before()
        if self._carried[0] is not before:
            self._carried = before, CarriedCounts(before)
        if not before:
            return page
        pools = self._supervisor.pools.by_service

        @cache
        def ids(service: str) -> set[str]:
            return {member.instance.id for member in pools[service].members}

        def known(service: str | None, instance: str | None) -> bool:
            # Those that met no route are counted for a service without a name.
            there = not service or service in pools
            if instance is None or not there:
                return there
            return instances and instance in ids(service or "")

        pieces = []
        for piece in self._carried[1].merge(page, known):
            pieces.append(piece)
            await asyncio.sleep(0)
        return b"".join(pieces)


def of_http2(
    counts: Sequence[tuple[int, int, int, int]],
) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Samples of `WorkerStats.http2`, over all workers."""
    names = ("fairlead_http2_sessions", "fairlead_http2_streams")
    for place, side in enumerate(("client", "instance")):
        for more, name in enumerate(names):
            yield name, {"side": side}, sum(one[2 * place + more] for one in counts)
