"""The configuration that a fleet shares, as this proxy knows it.

etcd ─▶ Store ─▶ choose ─▶ newest ─▶ Reloads ─▶ good, in force, kept on disk
                                        └─ complaints: the good one serves on
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from proxy import files
from proxy.fleet.config import Chosen, canary_key, choose, digest, place_of, range_of
from proxy.registry.base import RegistryError
from proxy.registry.etcd.wire import KeyValue
from proxy.settings.complaints import ConfigError
from proxy.settings.file import Settings
from proxy.settings.fleet import MAX_TEXT, SharedText, etcd_of
from proxy.threads import in_thread

if TYPE_CHECKING:
    from proxy.fleet.store import Store

log = structlog.get_logger()

READ_LIMIT = 3.0
"""Seconds that a reload with another key waits for etcd, or a start that has kept nothing."""
PATIENCE = 0.2
"""Seconds that a start waits for etcd where a text was kept, as for the registry's snapshot: what
etcd says a moment later takes its place."""
KEEP_LIMIT = 5.0
"""Seconds to write the kept text, and to read it."""
LARGEST_KEPT = 8 * MAX_TEXT
"""Bytes: JSON may need six characters for one."""

Own = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class NoText(Exception):
    """There is no text for a configuration. The message is one line for the operator."""


class SharedConfig:
    """Owns what is known of the key, the task that follows it, and the copy on disk."""

    def __init__(self) -> None:
        self._on_text: Callable[[], None] | None = None
        self._untold = False
        """A text came before anybody listened."""
        self._task: asyncio.Task[None] | None = None
        self._source: tuple[object, ...] | None = None
        self.newest: SharedText | None = None
        """The text of the key now, or last known, for this proxy."""
        self.good: SharedText | None = None
        """The text in force."""
        self.canary = False
        self.complaints: tuple[str, ...] = ()
        """Reasons why the newest text is not in force."""
        self.error = ""
        """Reason why the key is not followed just now."""
        self.problem = ""
        """Reason why a key that is there is not read."""

    async def begin(
        self,
        settings: Settings,
        parse: Callable[[SharedText], Settings],
        handed: SharedText | None,
    ) -> Settings:
        """The settings with what is shared, for a start: of the key, else what a predecessor had or
        what was kept; the first that is good. Those of the file alone if there is none."""
        if settings.config is None:
            return settings
        known = [one for one in (handed, await self._kept(settings)) if one is not None]
        asked = await self._ask(settings, PATIENCE if known else READ_LIMIT)
        self._source = _source(settings)
        for text in known if asked is None else (asked, *known):
            self.newest = self.newest or text
            try:
                whole = parse(text)
            except ConfigError as error:
                self.refused(text, tuple(map(str, error.complaints)))
                continue
            self.good = text
            log.info("shared_config_begun", place=text.place, revision=text.revision)
            return whole
        log.warning("shared_config_unknown", key=settings.config.key, error=self.error)
        return settings

    def listen(self, on_text: Callable[[], None]) -> None:
        """`on_text` hears that another text is there to be read, also of one that came before."""
        self._on_text = on_text
        if self._untold:
            on_text()

    async def text_for(self, settings: Settings) -> SharedText | None:
        """The text that goes with a file; None while nobody has written one for the key that is
        followed. NoText for a file that names another key, and there is none."""
        assert settings.config is not None
        if _source(settings) == self._source:
            return self.newest
        text = await self._ask(settings)
        if text is None:
            reason = self.error or self.problem or "there is no such key; allowed: push one first"
            raise NoText(f"config: {place_of(settings.config.key)}: {reason}")
        return text

    def follow(self, settings: Settings, own: Own) -> None:
        """Follow the key of the settings that are in force, and none if they have none."""
        if self._task is not None and self._source == _source(settings):
            return
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._source = _source(settings)
        if settings.config is None:
            self.newest = self.good = None
            self.complaints, self.error, self.problem, self.canary = (), "", "", False
        else:
            self._task = own(self._follow(settings), "shared configuration")

    def refused(self, text: SharedText, reasons: tuple[str, ...]) -> None:
        """A text cannot be put in force."""
        if text == self.newest:
            self.complaints = reasons
        log.error(
            "shared_config_refused",
            place=text.place,
            revision=text.revision,
            errors=reasons,
            effect="the one from before serves on",
        )

    async def took(self, settings: Settings, text: SharedText | None) -> None:
        """A text is in force: keep it."""
        if text is None or text is self.good:
            return
        self.good = text
        if self.newest in (None, text):
            self.newest, self.complaints = text, ()
        await self._keep(settings, text)

    async def _keep(self, settings: Settings, text: SharedText) -> None:
        """Keep a text for a start while etcd does not answer."""
        if (path := _kept_file(settings)) is None:
            return
        try:
            async with asyncio.timeout(KEEP_LIMIT):
                content = msgspec.json.encode(text)
                await in_thread(lambda: files.replace(path, content), "keep the configuration")
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or f"not within {KEEP_LIMIT:g} s"
            log.error("shared_config_not_kept", file=path, error=reason)

    def document(self) -> dict[str, Any] | None:
        """`shared` of `GET /api/v1/config`; null = the configuration is all of the file."""
        if self._source is None:
            return None
        return {
            "followed": not self.error,
            "error": self.error or self.problem,
            "in_force": _told(self.good),
            "newest": _told(self.newest),
            "canary": self.canary,
            "complaints": self.complaints,
        }

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        if self._source is not None:
            yield "fairlead_shared_config_up", {}, float(not self.error)
            yield "fairlead_shared_config_good", {}, float(self.good == self.newest)
            yield "fairlead_shared_config_revision", {}, self.good.revision if self.good else 0

    async def _follow(self, settings: Settings) -> None:
        config = settings.config
        assert config is not None
        if self.good is not None:
            # The text of a start, which may never change.
            await self._keep(settings, self.good)
        store = _store(settings)
        try:
            await store.follow(
                *range_of(config.key),
                lambda held: self._take(choose(held, config.key, proxy_id(settings))),
                self._state,
            )
        finally:
            await store.close()

    def _state(self, error: str) -> None:
        if bool(error) != bool(self.error):
            if error:
                log.warning("shared_config_lost", error=error, effect="what is in force serves on")
            else:
                log.info("shared_config_followed")
        self.error = error

    def _take(self, chosen: Chosen) -> None:
        gone = chosen.shared is None and self.newest is not None
        problem = chosen.problem or "the key is gone" * gone
        if problem != self.problem and problem:
            log.error("shared_config_not_read", error=problem, effect="what is in force serves on")
        self.problem = problem
        self.canary = chosen.canary
        if chosen.shared is None or chosen.shared == self.newest:
            return
        self.newest, self.complaints = chosen.shared, ()
        if self._on_text is None:
            self._untold = True
        else:
            self._on_text()

    async def _ask(self, settings: Settings, limit: float = READ_LIMIT) -> SharedText | None:
        """The text of the key as etcd has it; None, with `error` or `problem`, if it has not."""
        assert settings.config is not None
        store = _store(settings)
        self.error = self.problem = ""
        held: Mapping[bytes, KeyValue] = {}
        try:
            async with asyncio.timeout(limit):
                held = await store.read(*range_of(settings.config.key))
        except RegistryError as error:
            self.error = str(error)
        except TimeoutError:
            self.error = f"no answer within {limit:g} s"
        finally:
            await store.close()
        chosen = choose(held, settings.config.key, proxy_id(settings))
        self.canary, self.problem = chosen.canary, chosen.problem
        return chosen.shared

    async def _kept(self, settings: Settings) -> SharedText | None:
        path = _kept_file(settings)
        if path is None:
            return None
        try:
            async with asyncio.timeout(KEEP_LIMIT):
                content = await in_thread(lambda: _read(path), "read the kept configuration")
            text = msgspec.json.decode(content, type=SharedText)
        except FileNotFoundError:
            return None
        except (OSError, TimeoutError, ValueError, RecursionError) as error:
            log.error("shared_config_not_read", file=path, error=str(error))
            return None
        assert settings.config is not None
        key = settings.config.key
        if text.place not in (place_of(key), place_of(canary_key(key))):
            log.warning("shared_config_not_read", file=path, error=f"it is of {text.place}")
            return None
        return text


def proxy_id(settings: Settings) -> str:
    """The id of this proxy in its fleet, the same over restarts: as the file says, else the host's
    name and the port of the admin server."""
    if settings.fleet is not None and settings.fleet.id:
        return settings.fleet.id
    return f"{socket.gethostname()}-{settings.admin.bind.rpartition(':')[2]}"


def _source(settings: Settings) -> tuple[object, ...] | None:
    """The key that settings take their services from, and for which proxy; None = no key."""
    if settings.config is None:
        return None
    registry = etcd_of(settings.registry, settings.config.registry)
    assert registry is not None, "is checked"
    return settings.config.key, registry.options, proxy_id(settings)


def _store(settings: Settings) -> Store:
    # Loads all of aiohttp's client, which most proxies need later and in another place.
    from proxy.fleet.store import Store
    from proxy.registry.etcd.options import Options

    assert settings.config is not None
    registry = etcd_of(settings.registry, settings.config.registry)
    assert registry is not None, "is checked"
    assert isinstance(registry.options, Options)
    return Store(registry.options)


def _kept_file(settings: Settings) -> str | None:
    """Where the text in force is kept: beside the snapshot of its registry."""
    assert settings.config is not None
    registry = etcd_of(settings.registry, settings.config.registry)
    if registry is None or registry.snapshot is None:
        return None
    return f"{registry.snapshot}.config"


def _read(path: str) -> bytes:
    with files.locate(path) as place, open(files.open_at(place, os.O_RDONLY), "rb") as file:
        return file.read(LARGEST_KEPT)


def _told(text: SharedText | None) -> dict[str, Any] | None:
    if text is None:
        return None
    return {"place": text.place, "revision": text.revision, "hash": digest(text.text)}
