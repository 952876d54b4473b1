"""The control process from start to exit: in which order things come up and go down.

Start: addresses first, because they fail first; then the board and the workers, which take a
while to load; meanwhile the rest is loaded here: the watch, the admin server. Stop (SIGTERM,
SIGINT): readiness fails at once, accepting goes on for `shutdown.delay`, workers finish for
`shutdown.grace`, the rest is cut; the admin server answers until the last worker is gone. A
second signal cuts at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from proxy import log as log_setup
from proxy.control.certificates import CertificateError, Certificates
from proxy.control.events import Events
from proxy.control.handover import Predecessor, Successor, restore
from proxy.control.launch import Launch, ProcessLaunch, module_command
from proxy.control.openings import StartError, open_admin, open_listeners
from proxy.control.parent_link import ParentLink
from proxy.control.pools import PoolRegistry
from proxy.control.provider import ProviderError, build_provider
from proxy.control.reload import Reloads
from proxy.control.run_as import give_up_root
from proxy.control.service_manager import ServiceManager, from_environment
from proxy.control.shared_config import SharedConfig
from proxy.control.signals import Signals
from proxy.control.slots import Slots
from proxy.control.successors import Unusable, open_acme
from proxy.control.supervisor import Supervisor
from proxy.destinations import Destinations
from proxy.engine.line_file import STDOUT, open_for_append
from proxy.engine.load import ROWS, SLOTS, Board
from proxy.lean import load_aiohttp
from proxy.messages import WorkerConfig
from proxy.settings.access_log import to_daemon
from proxy.settings.file import Settings
from proxy.settings.fleet import SharedText
from proxy.settings.service import for_worker
from proxy.threads import in_thread
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.control.admin import Admin

log = structlog.get_logger()

OPEN_FILES = 1 << 20
"""Descriptors asked for at most, within the hard limit: a connection needs two, so this is half
a million connections per worker. The usual soft limit of 1,024 is for `select`."""

FEWEST_FILES = 128
"""Half of it is what a worker keeps for other things than connections; the rest is enough for
some thirty clients. With less it would start, be ready, and close every connection."""


ACCEPT_LIMIT = 10.0
"""Seconds after which a service manager is told why the workers do not accept yet."""

ORPHAN_GRACE = 3.0
"""Seconds to finish what is in flight once the parent is dead."""

ORPHAN_LIMIT = 3.5
"""Seconds after which a process whose parent has died ends at once: a little more than those."""

OPEN_LIMIT = 5.0
"""Seconds for the access log to open at the start: a disk that sleeps wakes up in them, and a file
system whose server is gone is not waited for."""


@dataclass(frozen=True)
class Host:
    """A program whose loop this is."""

    on_up: Callable[[Supervisor, Admin], None]
    """Hears once the workers have begun and the admin server answers."""


def run(settings: Settings, file: FilePath | None = None, parent: ParentLink | None = None) -> int:
    """Run until told to stop; the exit code. StartError when it cannot start. `file`: what the
    settings were read from, and are read from again. `parent`: the one that has started this
    process, if that is there to replace it."""
    import uvloop  # Which the control process of a side-car has no use for.

    log_setup.set_up(settings.log)
    raise_file_limit()

    async def main() -> int:
        with Signals() as signals:
            return await serve(settings, signals, file, parent)

    return uvloop.run(main())


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does, for this process and the workers.
    StartError when that is not enough to serve anybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FEWEST_FILES:
        raise StartError(
            f"the limit on open files is {hard} (ulimit -Hn), and"
            f" {FEWEST_FILES} are needed at least"
        )
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("file_limit_not_raised", limit=soft, wanted=wanted, error=str(error))


async def serve(
    settings: Settings,
    signals: Signals,
    file: FilePath | None = None,
    parent: ParentLink | None = None,
    host: Host | None = None,
    shape: Callable[[Settings], Settings] = lambda settings: settings,
    notify: Callable[[str], None] | None = None,
    launch: Callable[[Board], Launch] | None = None,
    on_up: Callable[[Supervisor], None] = lambda supervisor: None,
) -> int:
    """The life of the control process inside its event loop, until `signals` end it. Returns
    the exit code; StartError when it cannot start. `file` and `parent`: as for `run`; `host`: what
    the service manager is told, the log and the collector are the program's; `shape`: what is made
    of what the file says, whenever it is read; `notify`: hears what a service manager would, where
    there is no parent to tell one; `launch`: starts workers in this process; None = as processes;
    `on_up`: as `Host` has it."""
    environ = os.environ if host is None else {}
    manager = from_environment(environ, notify if parent is None else parent.notify)
    held = [] if parent is None else parent.held
    predecessor: Predecessor | None = None
    with ExitStack() as opened:
        listeners = open_listeners(settings, held, opened)
        admin_socket = open_admin(settings, held, opened)
        if parent is not None:
            parent.hold("admin", "admin", settings.admin.bind, [admin_socket])
            parent.hold_listeners(listeners.current)
            parent.close_unused()
        # Before anything is written, and before keys are read, which a reload must be able to.
        become = give_up_root(settings)
        await _check_access_log(settings)
        try:
            acme = await open_acme(settings)
        except Unusable as error:
            raise StartError(str(error)) from error
        parts: dict[str, Any] = {}
        if parent is not None and parent.state is not None:
            predecessor = Predecessor()
            opened.callback(predecessor.close)
            parts = await predecessor.ask(parent.state)
        shared = SharedConfig()
        if file is not None:
            settings = await shared.begin(settings, _merge(file, shape), parts.get("shared_config"))
        certificates = await _read_certificates(settings, parts.get("ticket_secret"))
        admin_port = admin_socket.getsockname()[1]
        destinations = Destinations(admin_port, settings.registry.allow)
        board = Board.create(ROWS)
        opened.callback(board.close)
        events = Events()
        token = secrets.token_hex(8)

        def config_of(settings: Settings, generation: int, admin_port: int) -> WorkerConfig:
            config = _worker_config(settings, generation, token, admin_port)
            return config if launch is None else replace(config, log=None)

        supervisor: Supervisor = Supervisor(
            settings,
            replace(config_of(settings, 1, admin_port), tripped=tuple(parts.get("tripped", ()))),
            PoolRegistry(
                settings.static,
                Slots(SLOTS, board.idle),
                time.monotonic(),
                settings=settings.services,
                defaults=settings.defaults,
                destinations=destinations,
                routes=settings.routes,
                derived=settings.derived,
                trusted=settings.config is None,
            ),
            board,
            ProcessLaunch(
                program=module_command("proxy.engine"),
                board=board.fd,
                environ=lambda: log_setup.environment(supervisor.settings.log),
            )
            if launch is None
            else launch(board),
            listeners,
            lambda registry: build_provider(
                registry,
                events,
                lambda instance: supervisor.collector.answers(instance),
                destinations,
                lambda: supervisor.pools.complete,
                lambda: supervisor.watch.in_use,
            ),
            events=events,
            destinations=destinations,
            certificates=certificates,
            acme=acme,
            shared=shared,
        )
        admin: Admin | None = None
        successor = Successor(supervisor)
        try:
            restore(supervisor, parts, time.monotonic(), first=True)
            await supervisor.start_workers()
            # The registry's client, and then the HTTP server, are half of all that this process
            # loads. The workers load at the same time, on other cores.
            if host is None:
                load_aiohttp()
            try:
                supervisor.start()
            except ProviderError as error:
                raise StartError(str(error)) from error
            ready = asyncio.Event()

            def on_ready() -> None:
                if host is None:
                    _freeze()
                supervisor.config = replace(supervisor.config, tripped=())
                manager.status("serving")
                ready.set()
                if parent is not None:
                    parent.ready(become)

            supervisor.on_ready = on_ready
            supervisor.own(_tell(manager, supervisor), "service manager")
            # In a thread, because the registry is being asked meanwhile.
            admin_type = await asyncio.to_thread(_load_admin)
            admin = admin_type(supervisor, admin_socket)
            if file is not None:
                reloads = Reloads(file, os.environ, supervisor, admin, config_of, shape)
                reloads.manager = manager
                admin.changes.reloads = reloads
                shared.listen(reloads.begin_shared)
                signals.on_reload = reloads.begin
                supervisor.own(reloads.watch(), "watch of the file")
            changes = admin.changes

            async def on_configured() -> None:
                changes.follow()
                if parent is not None:
                    parent.hold_listeners(listeners.current)
                    await parent.settled()

            supervisor.on_configured = on_configured
            changes.follow()
            if parent is not None:
                parent.listen()
                opened.callback(parent.close)
                parent.on_successor = successor.meet
                admin.changes.start_successor = parent.upgrade
                admin.on_moved = lambda bind, sock: parent.hold("admin", "admin", bind, [sock])
            if predecessor is None:
                await admin.start()
            else:
                predecessor.supervisor = supervisor
                supervisor.own(_take_admin(admin, predecessor, ready), "admin")
            on_up(supervisor)
            if host is not None:
                host.on_up(supervisor, admin)
            signals.on_reopen = supervisor.reopen_access_log
            signals.has_log = lambda: supervisor.settings.access_log is not None
            if parent is not None and await _until_retired(parent, supervisor, signals):
                return await _retire(supervisor, signals, parent, admin, successor)
            return await _until_stopped(supervisor, signals, parent, manager)
        finally:
            await successor.close()
            await supervisor.kill()
            await supervisor.close()
            if admin is not None:
                await admin.close()


def _merge(
    file: FilePath, shape: Callable[[Settings], Settings]
) -> Callable[[SharedText], Settings]:
    """A function that merges the file with what is shared; ConfigError."""
    from proxy.settings.load import parse, read_text  # The parser of YAML is not always needed.

    return lambda text: shape(parse(read_text(file), str(file), os.environ, text))


def _load_admin() -> type[Admin]:
    # Loads all of aiohttp's server, which must not delay the start of the workers.
    from proxy.control.admin import Admin

    return Admin


def _freeze() -> None:
    """Exempt from collection the objects that exist now, since they mostly stay. See
    docs/decisions/0007-garbage-collection.md."""
    gc.collect()
    gc.freeze()


async def _tell(manager: ServiceManager, supervisor: Supervisor) -> None:
    """Tell the service manager that all workers accept, also where the registry does not answer
    and clients get a 503 for now; then that all of them live."""

    def accept() -> bool:
        workers = supervisor.workers
        return all(one.current is not None and one.current.accepting for one in workers)

    while not await supervisor.collector.until(accept, ACCEPT_LIMIT):
        manager.status("; ".join(supervisor.missing()))
    manager.ready("; ".join(("serving", *supervisor.missing())))
    await manager.keep_alive(lambda: all(one.alive for one in supervisor.workers))


async def _take_admin(admin: Admin, predecessor: Predecessor, ready: asyncio.Event) -> None:
    """Answer at the admin address once the predecessor does no more."""
    await ready.wait()
    await predecessor.counts()
    admin.metrics.before = lambda: predecessor.page
    await admin.start()


async def _until_retired(parent: ParentLink, supervisor: Supervisor, signals: Signals) -> bool:
    """Wait for the end of this process's service; True if a successor has taken over."""
    events = (signals.first, parent.retire, parent.gone)
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(one.wait()) for one in events]
    tasks.append(asyncio.create_task(supervisor.failed()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return parent.retire.is_set()
    finally:
        await ended(*tasks)


async def _cut_short(signals: Signals, parent: ParentLink | None) -> None:
    """Wait for a reason not to let finish what is in flight."""
    second = asyncio.create_task(signals.second.wait())
    # A proxy without a parent has none to lose.
    gone = asyncio.create_task((asyncio.Event() if parent is None else parent.gone).wait())
    try:
        await asyncio.wait([second, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            log.error("parent_gone")
            await asyncio.wait([second], timeout=ORPHAN_LIMIT)
    finally:
        await ended(second, gone)


async def _retire(
    supervisor: Supervisor,
    signals: Signals,
    parent: ParentLink,
    admin: Admin,
    successor: Successor,
) -> int:
    """Finish what is in flight, beside the successor, and tell it what has been counted."""
    supervisor.stopping = True
    successor.taken_over()
    supervisor.orders.use(None)
    admin.changes.leave()
    grace = supervisor.settings.shutdown.grace
    log.info("retiring", grace=grace)
    supervisor.crew.listeners.leave()
    drained = asyncio.create_task(supervisor.drain(grace, shared=True))
    cut_short = asyncio.create_task(_cut_short(signals, parent))
    try:
        await admin.stop_accepting()
        successor.tell_state()
        successor.tell_counts(await admin.metrics.get())
        await asyncio.wait([drained, cut_short], return_when=asyncio.FIRST_COMPLETED)
        if cut_short.done():
            log.warning("stopped_at_once")
            await supervisor.kill()
        successor.tell_counts(await admin.metrics.get())
    finally:
        await ended(drained, cut_short)
    log.info("retired")
    return 0


async def _until_stopped(
    supervisor: Supervisor,
    signals: Signals,
    parent: ParentLink | None,
    manager: ServiceManager,
) -> int:
    failure = asyncio.create_task(supervisor.failed())
    first = asyncio.create_task(signals.first.wait())
    cut_short = asyncio.create_task(_cut_short(signals, parent))
    tasks: list[asyncio.Task[Any]] = [failure, first, cut_short]
    # A proxy without a parent has none to lose.
    gone = asyncio.create_task((asyncio.Event() if parent is None else parent.gone).wait())
    tasks.append(gone)
    try:
        await asyncio.wait([failure, first, gone], return_when=asyncio.FIRST_COMPLETED)
        code = 0 if first.done() else 1
        # From here on /readyz says 503: whoever sends requests gets time to stop doing so.
        supervisor.stopping = True
        shutdown = supervisor.settings.shutdown
        if gone.done():
            # Who killed the process that was started means this one: its port is to be free soon.
            shutdown = replace(shutdown, delay=0.0, grace=min(shutdown.grace, ORPHAN_GRACE))
        log.info("stopping", delay=shutdown.delay, grace=shutdown.grace)
        manager.stopping(f"finishing what is in flight, for {shutdown.grace:g} s at most")
        drained = asyncio.create_task(supervisor.drain(shutdown.grace, shutdown.delay))
        tasks.append(drained)
        await asyncio.wait([drained, cut_short], return_when=asyncio.FIRST_COMPLETED)
        if cut_short.done():
            # Asked for twice, say, so what is in flight is cut on purpose: no failure.
            log.warning("stopped_at_once")
            await supervisor.kill()
        log.info("stopped", code=code)
        return code
    finally:
        await ended(*tasks)


async def _check_access_log(settings: Settings) -> None:
    """The workers open it; that it cannot be opened is to be known before anything starts."""
    if settings.access_log is None or to_daemon(settings.access_log.path):
        return  # A daemon may come later: see `line_socket.py`.
    path = settings.access_log.path
    if path == STDOUT:
        if sys.stdout is None:
            # Its number would be given to some socket.
            raise StartError("access_log: the standard output is closed")
        return
    try:
        opening = in_thread(lambda: os.close(open_for_append(path)), "open the access log")
        async with asyncio.timeout(OPEN_LIMIT):
            await opening
    except TimeoutError:
        raise StartError(f"access_log: {path} has not opened in {OPEN_LIMIT:g} s") from None
    except OSError as error:
        raise StartError(f"access_log: cannot open {path}: {error.strerror or error}") from error


async def _read_certificates(
    settings: Settings, secret: tuple[bytes, float] | None
) -> Certificates:
    """`secret`: of a predecessor's ticket keys."""
    certificates = Certificates(settings)
    certificates.secret = secret or certificates.secret
    try:
        await certificates.start()
    except CertificateError as error:
        raise StartError(str(error)) from None
    return certificates


def _worker_config(
    settings: Settings, generation: int, token: str, admin_port: int
) -> WorkerConfig:
    return WorkerConfig(
        generation=generation,
        listeners=settings.listeners,
        routes=settings.routes,
        instance_filters=()
        if settings.routes_from_instances is None
        else settings.routes_from_instances.filters,
        defaults=for_worker(settings.defaults),
        services={name: for_worker(own) for name, own in settings.services.items()},
        workers=settings.workers,
        via_token=token,
        access_log=settings.access_log,
        tracing=settings.tracing,
        log=settings.log,
        admin_port=admin_port,
        allow=settings.registry.allow,
        plugins=settings.plugins,
    )
