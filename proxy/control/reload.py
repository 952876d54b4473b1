"""Reloads: a changed configuration takes the place of the one in force, whole or not at all.

read and check ─▶ difference ─▶ successors ─▶ every worker ─▶ pools, checks ─▶ in force
    │ complaints       │ --dry-run    │ unusable     │ one refuses: all take back the old one
    ▼                  ▼              ▼              ▼
                          the old configuration serves on
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from proxy.control.service_manager import ServiceManager
from proxy.control.shared_config import NoText
from proxy.control.successors import AdminServer, Successors, Unusable
from proxy.control.supervisor import Supervisor
from proxy.messages import WorkerConfig
from proxy.settings.changes import Change, changes
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.fleet import SharedText
from proxy.threads import in_thread

log = structlog.get_logger()
T = TypeVar("T")

RESULTS = ("changed", "unchanged", "refused", "failed")
"""Results of reloads: `refused`: the file is bad; `failed`: it could not be put in force."""

READ_LIMIT = 30.0
"""Seconds to read the file: a file system whose server is gone is not waited for."""

PAUSE = 2.0
"""Seconds between two looks at a file that is watched."""

KEYS_TOLD = 20
"""Keys in one line of the log."""


Source = Literal["file", "key", "secret"]
"""The reason for a reload: the file, the key of `config`, or the files of secrets."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of one reload."""

    result: str
    changes: tuple[Change, ...] = ()
    complaints: tuple[str, ...] = ()
    """Reasons why the old configuration serves on."""

    @property
    def summary(self) -> str:
        """Line for the service manager that says what came of the reload."""
        if self.complaints:
            return f"reload {self.result}: {'; '.join(self.complaints)}"
        return f"serving; reloaded, keys changed: {len(self.changes)}"


class Reloads:
    """Owns the counts of reloads, which are made one after the other."""

    def __init__(
        self,
        file: Path,
        environ: Mapping[str, str],
        supervisor: Supervisor,
        admin: AdminServer,
        config_of: Callable[[Settings, int, int], WorkerConfig],
        shape: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> None:
        """`config_of`: the part of a configuration that workers get, by its generation and the
        port of the admin server; `shape`: what is made of what the file says."""
        self._shape = shape
        self._file = file
        self._environ = environ
        self._supervisor = supervisor
        self._admin = admin
        self._config_of = config_of
        self._turn = supervisor.turn
        self._hashed: tuple[Settings, str] | None = None
        self._shared = supervisor.shared
        self._text: str | None = None
        """The file as it is in force: what a change of the key is merged with."""
        self._begun: set[asyncio.Task[Outcome]] = set()
        self._to_read: set[Source] = set()
        """Kinds of reloads (see `reload`) that have begun and not read anything yet."""
        self.manager = ServiceManager(lambda text: None)
        """Hears of each reload."""
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.succeeded = True
        """Whether the latest one put in force what the file says, as far as it can be."""
        self.since = time.time()
        """When the configuration in force came in force: seconds since 1970."""
        self.last: tuple[float, Outcome] | None = None
        """When the last reload was done, and what came of it."""

    def begin(self) -> None:
        """Reload in a task of its own; the log tells what came of it. One that has yet to read the
        file is enough for all who want it read."""
        self._begin("file")

    def begin_shared(self) -> None:
        """Begin a reload for another text under the key of `config`."""
        self._begin("key")

    def _begin(self, source: Source) -> None:
        if source in self._to_read:
            return
        self._to_read.add(source)
        task = asyncio.get_running_loop().create_task(self.reload(source=source))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def watch(self, pause: float = PAUSE) -> None:
        """Reload whenever the file is another one than before, while the configuration in force
        says so, or a file of a secret that it names is. One that was changed while it was read is
        read again: its stamp differs then."""
        if self._supervisor.settings.config is not None:
            from proxy.settings.load import read_text

            with suppress(ConfigError, TimeoutError):
                self._text = await _reading(lambda: read_text(self._file))
        seen = await in_thread(self._stamps, "look at the file")
        if self._supervisor.settings.watch:
            # It may have changed since it was read for the start.
            outcome = await self.reload(dry_run=True)
            if outcome.result != "unchanged":
                await self.reload()
        while True:
            await asyncio.sleep(pause)
            stamps = await in_thread(self._stamps, "look at the file")
            # A file that is new to us was read with the configuration that names it.
            changed = {file for file in stamps if seen.get(file, stamps[file]) != stamps[file]}
            if self._supervisor.settings.watch and self._file in changed:
                await self.reload()
            elif changed - {self._file}:
                await self.reload(source="secret")
            seen |= stamps

    def _stamps(self) -> dict[Path, tuple[int, int, int]]:
        """Size, time of change and inode of each file that is there; between two renames it is
        not."""
        names = self._supervisor.settings.secret_files
        stamps = {}
        for file in (self._file, *(self._file.parent / name for name in names)):
            with suppress(OSError):
                found = file.stat()
                stamps[file] = found.st_size, found.st_mtime_ns, found.st_ino
        return stamps

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for result, count in self.counts.items():
            yield "fairlead_config_reloads_total", {"result": result}, count
        yield "fairlead_config_last_reload_success", {}, float(self.succeeded)
        yield "fairlead_config_hash", {"hash": self.hash}, 1.0
        yield "fairlead_config_timestamp_seconds", {}, self.since
        yield from self._shared.samples()

    def document(self) -> dict[str, Any]:
        """The top of `GET /api/v1/config`."""
        last = self.last
        return {
            "file": str(self._file),
            "hash": self.hash,
            "since": self.since,
            "reloads": self.counts,
            "last_reload": None
            if last is None
            else {"at": last[0], **msgspec.to_builtins(last[1])},
            "shared": self._shared.document(),
        }

    @property
    def hash(self) -> str:
        """A digest of the configuration in force."""
        settings = self._supervisor.settings
        if self._hashed is None or self._hashed[0] is not settings:
            content = msgspec.msgpack.encode(settings, enc_hook=repr)
            self._hashed = settings, hashlib.sha256(content).hexdigest()[:16]
        return self._hashed[1]

    async def reload(self, dry_run: bool = False, *, source: Source = "file") -> Outcome:
        """Read the file, or the `source` that has changed beside what is in force of it, and put
        that in force; `dry_run`: only say what would change."""
        async with self._turn:
            if not dry_run:
                self._to_read.discard(source)
                self.manager.reloading()
            try:
                outcome = await self._reload(dry_run, source)
            except Exception as error:
                # A reload that fails for a reason of ours must not end a proxy that serves.
                log.exception("config_reload_failed_inside")
                outcome = Outcome("failed", complaints=(f"{type(error).__name__}: {error}",))
            if dry_run:
                return outcome
            self.manager.reloaded(outcome.summary)
        self.counts[outcome.result] += 1
        self.last = time.time(), outcome
        if outcome.result == "changed":
            self.since = self.last[0]
        self.succeeded = outcome.result in ("changed", "unchanged")
        if self.succeeded:
            log.info(
                "config_reloaded",
                changed=[str(one) for one in outcome.changes[:KEYS_TOLD]],
                number=len(outcome.changes),
                by=source,
            )
        else:
            log.error("config_not_reloaded", result=outcome.result, errors=outcome.complaints)
        return outcome

    async def _read(self, by_key: bool) -> tuple[str, Settings, SharedText | None]:
        """The text of the file, settings, and what is shared in them. Raises ConfigError, NoText,
        TimeoutError."""
        from proxy.settings.load import parse, read_text  # YAML's parser, not needed before.

        kept = self._text if by_key else None
        text = await _reading(lambda: read_text(self._file)) if kept is None else kept

        async def merged(shared: SharedText | None) -> Settings:
            return await _reading(
                lambda: self._shape(parse(text, str(self._file), self._environ, shared))
            )

        settings = await merged(None)
        if settings.config is None:
            return text, settings, None
        shared = await self._shared.text_for(settings)
        if shared is None:
            return text, settings, None
        try:
            return text, await merged(shared), shared
        except ConfigError as error:
            good = self._shared.good
            self._shared.refused(shared, tuple(map(str, error.complaints)))
            if by_key or shared is not self._shared.newest or good in (None, shared):
                raise
            # The file is good: what is wrong under the key does not keep it out of force.
            return text, await merged(good), good

    async def _reload(self, dry_run: bool, source: Source) -> Outcome:
        from proxy.settings.load import with_secrets_anew

        try:
            if source == "secret":
                before = self._supervisor.settings
                settings = await _reading(lambda: with_secrets_anew(before, self._file))
                return await self._put_in_force(settings, dry_run)
            text, settings, shared = await self._read(source == "key")
        except ConfigError as error:
            return Outcome("refused", complaints=tuple(map(str, error.complaints)))
        except NoText as error:
            return Outcome("refused", complaints=(str(error),))
        except TimeoutError:
            reason = f"{self._file} was not read within {READ_LIMIT:g} s"
            return Outcome("failed", complaints=(reason,))
        outcome = await self._put_in_force(settings, dry_run)
        if not dry_run and not outcome.complaints:
            self._text = text
            await self._shared.took(settings, shared)
        elif not dry_run and shared is not None and shared is not self._shared.good:
            self._shared.refused(shared, outcome.complaints)
        return outcome

    async def _put_in_force(self, settings: Settings, dry_run: bool) -> Outcome:
        supervisor = self._supervisor
        before = supervisor.settings
        found = tuple(changes(before, settings))
        if dry_run or settings == before:
            return Outcome("unchanged" if settings == before else "changed", found)
        if supervisor.stopping:
            return Outcome("failed", found, ("the proxy is stopping",))
        successors = Successors(supervisor, self._admin, settings)
        try:
            await successors.prepare()
            generation = supervisor.config.generation + 1
            config = self._config_of(settings, generation, successors.admin_port)
            reason = await supervisor.reconfigure(
                settings,
                config,
                successors.certificates,
                successors.listening,
                successors.take,
            )
            if not reason:
                await successors.finish()
        except Unusable as error:
            return Outcome("refused", found, (str(error),))
        finally:
            await successors.close()
        return Outcome("failed" if reason else "changed", found, (reason,) if reason else ())


async def _reading(work: Callable[[], T]) -> T:
    """Have a thread read something. Raises TimeoutError."""
    async with asyncio.timeout(READ_LIMIT):
        return await in_thread(work, "read the file")
