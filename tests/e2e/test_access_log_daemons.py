"""The access log of daemons: what syslog and the journal get, and what it costs if they do not."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from proxy.engine.line_socket import LineSocket
from tests.e2e.test_access_log import proxy
from tests.e2e.test_admin import fetch
from tests.e2e.traffic import Fleet
from tests.support.processes import eventually, free_port

PATIENCE = 10.0
MESSAGE = re.compile(
    rb"<190>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [!-~]+ fairlead \d+ access - (.*)"
)


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        yield server


def unix(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(PATIENCE)
    return server


def put(log: LineSocket, *lines: bytes) -> None:
    log.put(memoryview(b"".join(line + b"\n" for line in lines)), len(lines))


def content(message: bytes) -> bytes:
    match = MESSAGE.fullmatch(message)
    assert match is not None, message
    return match[1]


def test_each_line_is_a_datagram(udp: socket.socket) -> None:
    log = LineSocket(f"syslog:udp://127.0.0.1:{udp.getsockname()[1]}")
    put(log, b'{"status":200}', b"two")
    assert [content(udp.recv(9000)) for _ in range(2)] == [b'{"status":200}', b"two"]
    log.close(PATIENCE)
    assert log.dropped == 0


def test_lengths_stand_before_lines_on_a_stream_and_a_new_daemon_goes_on() -> None:
    port = free_port()
    log = LineSocket(f"syslog:tcp://127.0.0.1:{port}")
    put(log, b"lost")  # Nobody is there yet.
    while not log.dropped:
        threading.Event().wait(0.001)
    for text in (b"one", b"two"):
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(0.05)
            while True:  # Until it is tried again.
                put(log, text)
                try:
                    connection, _ = server.accept()
                    break
                except TimeoutError:
                    pass
            with connection, connection.makefile("rb") as stream:
                length = b""
                while (digit := stream.read(1)) != b" ":
                    length += digit
                assert content(stream.read(int(length))) == text
    log.close(PATIENCE)


def test_the_journal_gets_what_a_line_of_json_says_as_fields(tmp_path: Path) -> None:
    with unix(tmp_path / "journal") as journal:
        log = LineSocket(f"journald:{tmp_path}/journal")
        line = b'{"status":502,"fault":null,"user_agent":"a\\nb","tls_resumed":true}'
        put(log, line, b"status=200")
        entry = dict(one.split(b"=", 1) for one in journal.recv(9000).splitlines())
        assert entry == {
            b"MESSAGE": line,
            b"PRIORITY": b"6",
            b"SYSLOG_IDENTIFIER": b"fairlead",
            b"FAIRLEAD_STATUS": b"502",
            b"FAIRLEAD_USER_AGENT": b"a b",
            b"FAIRLEAD_TLS_RESUMED": b"true",
        }
        assert journal.recv(9000).splitlines()[0] == b"MESSAGE=status=200"
        log.close(PATIENCE)


def test_a_daemon_that_does_not_read_costs_lines_that_are_counted(tmp_path: Path) -> None:
    with unix(tmp_path / "log") as daemon:
        log = LineSocket(f"syslog:unix:{tmp_path}/log")
        put(log, *[b"x" * 900] * 2000)
        while not log.dropped:
            threading.Event().wait(0.01)
        log.close(PATIENCE)
        daemon.setblocking(False)
        got = 0
        while True:
            try:
                content(daemon.recv(9000))
                got += 1
            except BlockingIOError:
                break
        assert got + log.dropped == 2000


async def test_requests_are_in_the_journal_and_not_harmed_where_there_is_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with Fleet() as fleet:
        await fleet.add("a")
        log = {"path": f"journald:{path}", "fields": ["status", "target", "service"]}
        running = proxy(fleet, tmp_path, log)
        async with running:
            assert await fetch(f"{running.url}/lost") == 200
            with unix(path) as journal:
                journal.setblocking(False)

                async def arrived() -> bool:
                    assert await fetch(f"{running.url}/kept") == 200
                    try:
                        entry = journal.recv(9000)
                    except BlockingIOError:
                        return False
                    line = entry.partition(b"\n")[0].removeprefix(b"MESSAGE=")
                    return msgspec.json.decode(line) == {
                        "status": 200,
                        "target": "/kept",
                        "service": "s",
                    }

                await eventually(arrived, PATIENCE, "an entry of the journal")
            await running.logs("access_log_not_opened")
