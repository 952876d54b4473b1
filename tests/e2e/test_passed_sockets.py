"""Sockets that the service manager has passed: matched to listeners, left to it at the end."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.changing import command
from tests.e2e.origin import Origin, origins
from tests.e2e.raw_http import Client, request
from tests.e2e.reloading import name, reload, rewrite
from tests.e2e.running import RunningProxy

pytestmark = pytest.mark.drill

PASS = """
import fcntl, os, sys
count, names, *numbers = sys.argv[1:sys.argv.index("--")]
moved = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
for number, descriptor in enumerate(moved, 3):
    os.dup2(descriptor, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
command = sys.argv[sys.argv.index("--") + 1:]
os.execv(command[0], command)
"""


class Passing(RunningProxy):
    """A proxy that is started with these sockets, as systemd does it."""

    def __init__(
        self,
        config: dict[str, Any],
        directory: Path,
        sockets: list[socket.socket],
        names: str,
        count: int | None = None,
    ) -> None:
        self._numbers = [sock.fileno() for sock in sockets]
        how_many = len(sockets) if count is None else count
        words = [str(how_many), names, *map(str, self._numbers), "--"]
        super().__init__(config, directory, started_by=[sys.executable, "-c", PASS, *words])

    def launch(self, **options: Any) -> None:
        super().launch(pass_fds=self._numbers, **options)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """Two of TCP and one with a file, which are listened on for as long as the test runs."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        yield [*made, unix]


def bind(sock: socket.socket) -> str:
    where = sock.getsockname()
    return f"unix:{where}" if sock.family == socket.AF_UNIX else f"127.0.0.1:{where[1]}"


def config(one: Origin, sockets: list[socket.socket]) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": [{"name": f"l{n}", "bind": bind(sock)} for n, sock in enumerate(sockets)],
        "services": {"users": {"instances": [one.instance]}},
        "routes": [{"path_prefix": "/", "service": "users"}],
    }


async def served(sock: socket.socket) -> None:
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        made = Client(*await asyncio.open_unix_connection(where))
    else:
        made = await Client.connect(where[1])
    async with made as client:
        await client.send(request("GET", "/"))
        assert (await client.answer()).body == b"one"


@pytest.mark.parametrize("names", ["l0:l1:l2", "same:same:same", ""])
async def test_passed_sockets_are_served_over_upgrades_and_left_at_the_end(
    sockets: list[socket.socket], names: str, tmp_path: Path
) -> None:
    async with origins("one", script=name) as (one,):
        settings = config(one, sockets)
        for _ in range(2):
            async with Passing(settings, tmp_path, sockets, names) as proxy:
                for _ in range(2):
                    for sock in sockets:
                        await served(sock)
                    assert (await command(proxy, "upgrade")) == (0, "upgraded\n")
                for sock in sockets:
                    await served(sock)
                assert "socket_not_used" not in proxy.log()
            # Whoever comes now waits for the next start: nothing keeps them out.
            for sock in sockets:
                with socket.socket(sock.family) as client:
                    client.settimeout(0.5)
                    client.connect(sock.getsockname())
                sock.accept()[0].close()


async def test_a_listener_that_is_taken_away_leaves_its_socket_as_it_was(
    sockets: list[socket.socket], tmp_path: Path
) -> None:
    async with origins("one", script=name) as (one,):
        settings = config(one, sockets)
        async with Passing(settings, tmp_path, sockets, "l0:l1:l2") as proxy:
            rewrite(proxy, {"listeners": settings["listeners"][1:]})
            assert (await reload(proxy))[0] == 0
            with socket.socket() as client:
                client.settimeout(0.5)
                client.connect(sockets[0].getsockname())
            sockets[0].accept()[0].close()
            await served(sockets[1])
            await served(sockets[2])


async def test_descriptors_that_were_never_passed_are_told_of(
    sockets: list[socket.socket], tmp_path: Path
) -> None:
    async with origins("one", script=name) as (one,):
        settings = config(one, sockets)
        async with Passing(settings, tmp_path, sockets, "l0:l1:l2", count=5) as proxy:
            for sock in sockets:
                await served(sock)
            await proxy.logs("passed as unknown, is no socket", 2)
            assert proxy.log().count("passed as unknown, is no socket") == 2
