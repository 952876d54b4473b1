"""Registries that say who is there, and no more, under drill: lists on HTTP servers and in files,
names, the API servers of Docker and Kubernetes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from proxy.catalog import registry_options
from proxy.settings.registry import RegistryOptions
from tests.e2e.drilled import IDS, SERVICE, UNLED, UNORDERED, Listed, Scripted, garbled, rows
from tests.e2e.mute_files import MuteFiles, can_mount
from tests.support.scripted_docker import ScriptedDocker, container
from tests.support.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of
from tests.support.scripted_list import ScriptedList
from tests.support.scripted_names import REFUSED, SRV, A, ScriptedNames

LEASELESS = rows("nothing ends by itself but what an answer lacks", "owners", "expiry")


class DrilledList(Scripted, Listed):
    """A list on a scripted HTTP server."""

    type = "http"
    asked = True
    lacks = LEASELESS | UNORDERED | UNLED
    rights = ("token", "", "secret")

    def __init__(self) -> None:
        super().__init__()
        self.server = ScriptedList()

    def write(self) -> None:
        self.server.document = self.first(len(self.known))

    def first(self, number: int) -> object:
        return {SERVICE: list(self.known.values())[:number]} if number else {}


class Directory:
    """Owns a directory with one file, and what keeps it from being read."""

    def __init__(self) -> None:
        self._root = tempfile.mkdtemp(prefix="fairlead-test-files-")
        self.url = f"{self._root}/instances.d"
        self.mute: MuteFiles | None = None

    async def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self._root}/away", self.url)
        os.makedirs(self.url, exist_ok=True)

    async def kill(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.url, f"{self._root}/away")

    def write(self, content: bytes) -> None:
        beside = Path(f"{self._root}/next")
        beside.write_bytes(content)
        beside.rename(f"{self.url}/users.json")

    def mount(self, *, refuses: bool = False) -> None:
        """A file system over it that does not answer, or `refuses`."""
        if not can_mount():
            pytest.skip("needs root and FUSE")
        self.mute = MuteFiles(Path(self.url), refuses=refuses)

    def unmount(self) -> None:
        mute, self.mute = self.mute, None
        if mute is not None:
            mute.close()

    async def __aexit__(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


class DrilledFile(Listed):
    """A file in a directory of its own. What it says is meant; what cannot be read says nothing."""

    type = "file"
    asked = True
    real = True
    lacks: ClassVar[Mapping[str, str]] = {
        **rows("what files say is meant, and counts at once", "wiped", "empty", "partial"),
        **LEASELESS,
        **UNORDERED,
        **UNLED,
    }

    def __init__(self) -> None:
        super().__init__()
        self.server = Directory()

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options("file")(path=self.server.url)
        return options

    def pause(self) -> None:
        self.server.mount()

    def resume(self) -> None:
        self.server.unmount()

    async def take_rights(self) -> None:
        self.server.mount(refuses=True)

    async def give_rights(self) -> None:
        self.server.unmount()
        self.write()

    async def lie(self, kind: str) -> None:
        if kind == "cut":
            self.server.write(self._content()[:-9])
        elif kind:
            self.server.write(garbled(kind))
        else:
            self.write()

    def write(self) -> None:
        if self.server.mute is None:
            self.server.write(self._content())

    def _content(self) -> bytes:
        return json.dumps({SERVICE: [*self.known.values()]}).encode()


class DrilledDns(Listed):
    """A scripted name server with SRV records. Ids are made of addresses there, so each instance
    has its own."""

    type = "dns"
    asked = True
    drained = ""
    lacks: ClassVar[Mapping[str, str]] = {
        **LEASELESS,
        **UNORDERED,
        **UNLED,
        **rows("an answer has 64 KiB at most", "huge"),
    }
    name = f"{SERVICE}.svc.test"
    services = f"_{SERVICE}._tcp.svc.test"

    def __init__(self) -> None:
        super().__init__()
        self.server = ScriptedNames()
        self._addresses = itertools.count(1)

    def options(self) -> RegistryOptions:
        options: RegistryOptions = registry_options("dns")(
            servers=(self.server.address,), services={SERVICE: self.services}
        )
        return options

    def entry(self, id_: str, port: int, status: str) -> tuple[str, int]:
        """Address and port."""
        number = next(self._addresses)
        fresh = (f"127.9.{number // 200}.{number % 200 + 1}", 0)
        address = self.known.get(id_, fresh)[0]
        IDS[address] = id_
        return address, port

    def write(self, shown: int | None = None) -> None:
        """See `Listed`; `shown`: no more than so many."""
        some = [*self.known.items()][:shown]
        self.server.records = {id_: [(A, address)] for id_, (address, _) in some}
        if some:
            self.server.records |= {
                self.name: [(A, address) for _, (address, _) in some],
                self.services: [(SRV, (0, 0, port, id_)) for id_, (_, port) in some],
            }

    async def take_rights(self) -> None:
        self.server.code = REFUSED

    async def give_rights(self) -> None:
        self.server.code = 0

    async def lie(self, kind: str) -> None:
        self.write({"empty": 0, "partial": 1}.get(kind))
        self.server.said = {
            "garbage": struct.pack("!H", 12) + b"Bad gateway!",
            "cut": struct.pack("!H", 100) + bytes(50),
        }.get(kind, b"")


class DrilledDocker(Scripted):
    """A scripted daemon. What its lists merely lack is held for a while."""

    type = "docker"
    path = "/containers"
    lacks = rows("an event is meant", "owners", "expiry") | UNORDERED | UNLED
    drained = "paused"
    rights = ("refuses", False, True)

    def __init__(self) -> None:
        self.server = ScriptedDocker()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        state = "running" if status == "healthy" else "paused"
        fields: dict[str, Any] = {
            "State": state,
            "NetworkSettings": {"Networks": {"b": {"IPAddress": self.address}}},
        }
        await self.server.put(*(container(SERVICE, id_, port, **fields) for id_ in ids))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(id_)

    def first(self, number: int) -> object:
        return list(self.server.containers.values())[:number]


class DrilledKubernetes(Scripted):
    """A scripted API server. Its lists are statements, also empty ones."""

    type = "kubernetes"
    lacks: ClassVar[Mapping[str, str]] = {
        **rows("the API server's word is meant, at its version", "empty", "partial"),
        **rows("the API server's word is meant: it has no leases", "owners", "expiry"),
        **rows("lists are of now, and a lower version is a store without its data", "lag"),
        **UNLED,
    }
    rights = ("token", "", "another")

    def __init__(self) -> None:
        self.server = ScriptedKubernetes()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        """A slice for each, since a port is of a whole one."""
        conditions = {"ready": status == "healthy", "terminating": status == "draining"}
        conditions["serving"] = True
        for id_ in ids:
            ports = [{"name": "http", "port": port}]
            one = endpoint(id_, self.address, conditions=conditions)
            await self.server.put(slice_of(SERVICE, f"slice-{id_}", one, ports=ports))

    async def deregister(self, id_: str) -> None:
        await self.server.delete(f"slice-{id_}")
