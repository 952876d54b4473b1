"""The filters of a worker: who is asked about which request, and the hooks that wait."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import time
from typing import Any, Final, NamedTuple

import msgspec

from proxy import catalog
from proxy.engine.http1.parser import call_a_claim
from proxy.engine.resilience.limits import BucketTable
from proxy.filters.base import Context, Filter
from proxy.filters.guarded import GuardedHooks
from proxy.filters.message import Request
from proxy.filters.watch import NoLooks, Watch
from proxy.messages import WorkerConfig
from proxy.settings.filters import FilterSpec

MOST_WAITING: Final = 1000
"""Hooks of one filter that wait for something at a time: as many requests as a slow server of
`forward_auth` may hold in each worker, at some ten KiB each."""
LINGER: Final = 60.0
"""Seconds after which a filter is closed that a configuration has no more: as long as hooks of
requests that are with it may take, and to spare."""
_THREADS: Final = 2
"""For passwords and files. More would only take the CPU from the loop."""

Hook = Callable[..., Any]


class Link(NamedTuple):
    """A filter in its place, with the hooks that it has."""

    name: str
    filter: Filter
    on_request: Hook | None
    on_response: Hook | None
    on_end: Hook | None
    guard: GuardedHooks | None
    """Around the hooks of one that is not the product's."""
    waiting: set[asyncio.Future[Any]]  # ≤ 1 KiB + MOST_WAITING * 200 B
    """Hooks of it that wait. Each filter has its own, so that one whose hooks never end takes no
    other's room."""


Links = tuple[Link, ...]


class FilterTable(NamedTuple):
    """Filters of one configuration: who is asked, in this order."""

    made: dict[bytes, Link]
    """Filters by what stands in the file."""
    listeners: dict[str, Links]
    routes: list[Links]
    """The last are those of all routes that instances bring."""
    services: dict[str, Links]
    others: Links
    """Of services that the file does not name."""

    @property
    def any(self) -> bool:
        """Whether any request has filters."""
        return bool(self.made)


NO_FILTERS: Final = FilterTable({}, {}, [], {}, ())


class Filters:
    """Owns the filters of the configuration in force, and the hooks that wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        buckets: BucketTable,
        raised: Callable[[Exception], None],
        refusal: Callable[[str, int], str],
        wall: Callable[[], float] = time,
        watch: Watch | None = None,
    ) -> None:
        """`raised` hears of errors in hooks that nobody waits for; `refusal`: why filters that a
        fleet shares may not connect to an address; `watch`: of hooks that hold the loop, None = by
        nobody."""
        self._loop = loop
        self._watch = Watch(NoLooks()) if watch is None else watch
        self._raised = raised
        self._threads: ThreadPoolExecutor | None = None
        lent = loop, now, buckets, call_a_claim, self._in_thread, wall
        self._contexts = Context(*lent), Context(*lent, refusal)
        """Of filters of the machine's own file, and of those that a fleet shares."""
        self.table = NO_FILTERS
        self.closed = False

    def _in_thread(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "filter")
        return self._loop.run_in_executor(self._threads, work)

    # -- configurations

    def prepare(self, config: WorkerConfig) -> FilterTable:
        """Make and open what another configuration needs, for `use`; those that it has as well
        stay. Raises what a filter does: then none was opened."""
        made: dict[bytes, Link] = {}
        try:
            return self._table(config, made)
        except Exception:
            self._close([link for key, link in made.items() if key not in self.table.made])
            raise

    def _table(self, config: WorkerConfig, made: dict[bytes, Link]) -> FilterTable:

        def links(specs: Sequence[FilterSpec]) -> Links:
            return tuple([self._link(spec, made) for spec in specs])

        return FilterTable(
            made,
            {one.name: links(one.filters) for one in config.listeners},
            [
                *(links(route.filters) for route in config.routes),
                links(config.instance_filters),
            ],
            {name: links(service.filters) for name, service in config.services.items()},
            links(config.defaults.filters),
        )

    def _link(self, spec: FilterSpec, made: dict[bytes, Link]) -> Link:
        key = msgspec.json.encode(spec, order="deterministic")
        link = made.get(key) or self.table.made.get(key)
        if link is None:
            one = catalog.plug_in("filters", spec.kind)
            link = made[key] = self._linked(spec, make(one, spec.settings))
            link.filter.open(self._contexts[spec.shared])
        made[key] = link
        return link

    def use(self, table: FilterTable) -> None:
        """Put in force what `prepare` has made."""
        before, self.table = self.table, table
        gone = [link for key, link in before.made.items() if key not in table.made]
        if gone:
            self._loop.call_later(LINGER, self._close, gone)

    def _linked(self, spec: FilterSpec, one: Filter) -> Link:
        """A filter with the hooks that it has overridden."""
        one.name = spec.name
        guard = (
            None
            if spec.kind in catalog.FILTERS
            else GuardedHooks(one, self._watch, self._loop.call_later)
        )

        def hook(method: str) -> Hook | None:
            if getattr(type(one), method) is getattr(Filter, method):
                return None
            own: Hook = getattr(one, method)
            return own if guard is None else guard.around(own)

        hooks = hook("on_request"), hook("on_response"), hook("on_end")
        return Link(spec.name, one, *hooks, guard, set())

    def _close(self, links: list[Link]) -> None:
        for link in links:  # ≤ routes
            for task in list(link.waiting):  # ≤ MOST_WAITING
                task.cancel()
            if link.guard is not None:
                link.guard.close()
            try:
                link.filter.close()
            except Exception as error:
                self._raised(error)

    def close(self) -> None:
        """The worker stops."""
        self.closed = True
        self._close(list(self.table.made.values()))
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def of_route(self, position: int, service: str) -> Links:
        """The filters of a route and of the service that it leads to."""
        table = self.table
        own = table.services.get(service, table.others) if service else ()
        return table.routes[position] + own if position < len(table.routes) else own

    # -- hooks

    def spawn(self, link: Link, hook: Any) -> asyncio.Future[Any] | None:
        """Have a hook of a filter that waits run; None: too many of it do already. Whoever asked
        hears of its end, and says when it has taken too long."""
        if len(link.waiting) >= MOST_WAITING or self.closed:
            if isinstance(hook, Coroutine):
                hook.close()
            return None
        task: asyncio.Future[Any] = asyncio.ensure_future(hook, loop=self._loop)
        link.waiting.add(task)
        task.add_done_callback(link.waiting.discard)
        return task

    def end(self, links: Links, request: Request, outcome: str) -> None:
        """Tell these filters that a request is over; nobody waits for them."""
        for link in links:  # ≤ 256
            if link.on_end is None:
                continue
            try:
                hook = link.on_end(request, outcome)
                if inspect.isawaitable(hook):
                    self._let_end(link, hook)
            except Exception as error:
                self._raised(error)

    def _let_end(self, link: Link, hook: Any) -> None:
        task, limit = self.spawn(link, hook), link.filter.time_limit
        if task is not None:
            timer = self._loop.call_later(limit, task.cancel)

            def ended(task: asyncio.Future[Any]) -> None:
                timer.cancel()
                if task.cancelled():
                    self._raised(TimeoutError(f"on_end took longer than {limit:g} s"))
                elif (error := task.exception()) is not None and isinstance(error, Exception):
                    self._raised(error)

            task.add_done_callback(ended)


def make(one: type[Filter], settings: dict[str, Any]) -> Filter:
    """A filter with its settings, as a message or a file brings them."""
    if one.options is None:
        return one(**settings)
    construct: Callable[[Any], Filter] = one
    return construct(msgspec.convert(settings, one.options))
