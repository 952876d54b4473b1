"""Decisions of the parent process: who serves, who takes over, and who is told what."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxy import packets
from proxy.parent import own_environ, passed_names
from proxy.succession import (
    LARGEST_ENV,
    MOST_RETIRED,
    READY_LIMIT,
    STOP_LIMIT,
    Parent,
    read_env,
)


class Child:
    """The far end of a control process that is none."""

    def __init__(self, pid: int, descriptor: int, environ: Mapping[str, str]) -> None:
        self.pid = pid
        self.environ = environ
        self.end = socket.socket(fileno=socket.dup(descriptor))
        self.descriptors: list[int] = []

    def told(self) -> list[dict[str, Any]]:
        """Messages since the last time."""
        found = []
        while True:
            try:
                packet = packets.receive(self.end)
            except BlockingIOError:
                return found
            if packet is None:
                return found
            found.append(packet[0])
            self.descriptors += packet[1]


class House:
    """A parent whose children are scripted, and whose time is a number."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.time = 0.0
        self.killed: list[tuple[int, int]] = []
        self.roots: set[int] = set()
        """Processes that the parent may not signal."""
        self.became: list[tuple[Any, ...]] = []
        self.children: dict[int, Child] = {}
        self._pids = count(100)
        self.parent = Parent(
            self._spawn,
            environ or {"A": "1"},
            self._kill,
            lambda: self.time,
            lambda *ids: self.became.append(ids),
        )

    def _kill(self, pid: int, number: int) -> None:
        if pid in self.roots:
            raise PermissionError(errno.EPERM, "not permitted")
        self.killed.append((pid, number))

    def _spawn(self, descriptor: int, environ: Mapping[str, str]) -> int:
        pid = next(self._pids)
        self.children[pid] = Child(pid, descriptor, environ)
        return pid

    def say(self, pid: int, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        packets.send(self.children[pid].end, message, descriptors)
        control = next(one for one in self.parent.links().values() if one.pid == pid)
        self.parent.on_message(control)

    def end(self, pid: int, code: int) -> None:
        self.children[pid].end.close()
        self.parent.on_end(pid, code)

    def serving(self, listener: socket.socket | None = None) -> int:
        """A control process that is ready, and listens."""
        self.parent.start()
        pid = max(self.children)
        if listener is not None:
            told = {"hold": "listener", "name": "web", "bind": "x", "anew": True}
            self.say(pid, told, (listener.fileno(),))
        self.say(pid, {"ready": True})
        self.children[pid].told()
        return pid

    def upgrade(self) -> int:
        """The process id of the successor."""
        self.parent.on_signal(signal.SIGUSR2)
        assert self.parent.successor is not None
        return self.parent.successor.pid

    def close(self) -> None:
        for child in self.children.values():
            child.end.close()
            packets.close(child.descriptors)
        for link in self.parent.links():
            link.close()


@pytest.fixture
def house() -> Any:
    made = House()
    yield made
    made.close()


@pytest.fixture
def listener() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_successor_gets_the_sockets_and_a_way_to_the_one_that_serves(
    house: House, listener: socket.socket
) -> None:
    old = house.serving(listener)
    new = house.upgrade()
    held, begin = house.children[new].told()
    assert held["held"] == [[0, "listener", "web", "x"]]
    assert begin == {"begin": True, "echoes": True}
    [successor] = house.children[old].told()
    assert successor["successor"] == new
    with socket.socket(fileno=house.children[new].descriptors.pop(0)) as same:
        assert same.getsockname() == listener.getsockname()
    ours, theirs = house.children[old].descriptors.pop(), house.children[new].descriptors.pop()
    with socket.socket(fileno=ours) as here, socket.socket(fileno=theirs) as there:
        here.send(b"state")
        assert there.recv(9) == b"state"


def test_the_one_that_serves_retires_when_its_successor_is_ready(house: House) -> None:
    old = house.serving()
    new = house.upgrade()
    house.children[old].told()
    house.say(new, {"ready": True})
    assert house.children[old].told() == [{"retire": True}]
    assert house.parent.serving is not None
    assert house.parent.serving.pid == new
    house.end(old, 0)
    assert house.parent.code is None
    house.end(new, 3)
    assert house.parent.code == 3
    assert house.parent.over


def test_the_asker_of_an_upgrade_hears_of_it_before_it_retires(house: House) -> None:
    old = house.serving()
    house.say(old, {"upgrade": True})
    new = max(house.children)
    house.say(new, {"ready": True})
    first, *rest = house.children[old].told()
    assert first == {"successor": new}
    assert rest == [{"upgraded": True, "asked": True}, {"retire": True}]


@pytest.mark.parametrize(
    ("last_words", "code", "reason"),
    [
        ({"failed": "proxy.yaml:3: no"}, 2, "proxy.yaml:3: no"),
        (None, 127, "it ended: exit status 127"),
        (None, -signal.SIGSEGV, "it ended: signal SIGSEGV"),
    ],
)
def test_a_successor_that_ends_leaves_the_one_that_serves(
    house: House, last_words: dict[str, Any] | None, code: int, reason: str
) -> None:
    old = house.serving()
    house.say(old, {"upgrade": True})
    house.children[old].told()
    new = max(house.children)
    if last_words is not None:
        packets.send(house.children[new].end, last_words)  # Read when it has ended.
    house.end(new, code)
    [told] = house.children[old].told()
    assert told == {"upgraded": False, "asked": True, "reason": reason}
    assert house.parent.serving is not None
    assert house.parent.serving.pid == old
    assert house.upgrade() > new


def test_a_successor_that_hangs_is_killed(house: House) -> None:
    old = house.serving()
    new = house.upgrade()
    house.children[old].told()
    house.time += READY_LIMIT
    assert house.parent.wait() == 0
    house.parent.tick()
    assert house.killed == [(new, signal.SIGKILL)]
    [told] = house.children[old].told()
    assert str(int(READY_LIMIT)) in told["not_upgraded"]
    house.end(new, -signal.SIGKILL)
    assert house.parent.links().keys() == {house.parent.serving.link}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "noise",
    [b"\xff", b"7", b"{}", b"[" * 60_000, b'{"hold": {}}', b'{"forget": [1]}', b"9" * 9_000],
)
def test_noise_of_a_successor_is_no_harm(house: House, noise: bytes) -> None:
    old = house.serving()
    new = house.upgrade()
    house.children[new].end.send(noise)
    house.say(new, {"failed": "noise"})
    house.end(new, 1)
    assert {"not_upgraded": "noise"} in house.children[old].told()


def test_a_control_process_hears_when_what_it_said_was_read(house: House) -> None:
    pid = house.serving()
    house.say(pid, {"echo": 7})
    assert {"echo": 7} in house.children[pid].told()


def test_a_parent_without_descriptors_refuses_an_upgrade(house: House) -> None:
    old = house.serving()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        house.parent.on_signal(signal.SIGUSR2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    [told] = house.children[old].told()
    assert os.strerror(errno.EMFILE) in told["not_upgraded"]
    assert house.parent.successor is None


def test_upgrades_are_done_one_at_a_time(house: House) -> None:
    old = house.serving()
    house.upgrade()
    house.children[old].told()
    house.say(old, {"upgrade": True})
    [told] = house.children[old].told()
    assert told["upgraded"] is False
    assert len(house.children) == 2


def test_an_upgrade_is_refused_while_many_have_yet_to_finish(house: House) -> None:
    house.serving()
    for _ in range(MOST_RETIRED):
        house.say(house.upgrade(), {"ready": True})
    house.parent.on_signal(signal.SIGUSR2)
    assert house.parent.successor is None


def test_a_control_process_that_is_killed_is_replaced_on_the_same_sockets(
    house: House, listener: socket.socket
) -> None:
    old = house.serving(listener)
    house.end(old, -signal.SIGKILL)
    house.parent.tick()
    new = max(house.children)
    assert new > old
    held, begin = house.children[new].told()
    assert (held["held"][0][2], begin["begin"]) == ("web", False)


def test_a_crash_loop_is_slowed_down(house: House) -> None:
    waits = []
    for _ in range(8):
        pid = house.serving()
        house.end(pid, -signal.SIGSEGV)
        waits.append(house.parent.wait())
    assert waits[0] == 0
    assert waits[1:3] == [0.2, 0.4]
    assert waits[-1] == 1.0


def test_a_crash_during_an_upgrade_makes_the_successor_serve(
    house: House,
) -> None:
    old = house.serving()
    new = house.upgrade()
    house.end(old, -signal.SIGKILL)
    house.parent.tick()
    assert len(house.children) == 2
    house.say(new, {"ready": True})
    assert house.parent.serving is not None
    assert house.parent.serving.pid == new
    assert house.parent.wait() is None


def test_a_crash_of_both_starts_another_one(house: House, listener: socket.socket) -> None:
    old = house.serving(listener)
    new = house.upgrade()
    house.end(old, -signal.SIGKILL)
    house.end(new, -signal.SIGKILL)
    house.parent.tick()
    third = max(house.children)
    assert third > new
    held, _ = house.children[third].told()
    assert held["held"][0][2] == "web"


def test_a_control_process_that_never_was_ready_is_not_replaced(house: House) -> None:
    house.parent.start()
    house.end(100, -signal.SIGKILL)
    assert house.parent.code == 128 + signal.SIGKILL


def test_a_stop_goes_to_all_and_ends_an_upgrade(house: House) -> None:
    first = house.serving()
    second = house.upgrade()
    house.say(second, {"ready": True})
    third = house.upgrade()
    house.parent.on_signal(signal.SIGTERM)
    assert sorted(house.killed) == [
        (first, signal.SIGTERM),
        (second, signal.SIGTERM),
        (third, signal.SIGKILL),
    ]
    house.end(second, 0)
    assert not house.parent.over
    house.end(first, 0)
    house.end(third, -signal.SIGKILL)
    assert house.parent.over
    assert house.parent.code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_one_that_is_loading_is_a_stop(house: House, number: int) -> None:
    house.parent.start()
    house.parent.on_signal(number)
    assert house.killed == [(100, signal.SIGTERM)]
    house.end(100, -signal.SIGTERM)
    assert house.parent.code == 0


def test_a_second_stop_is_the_last_word(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    old = house.serving()
    new = house.upgrade()
    house.say(new, {"ready": True})
    house.parent.on_signal(signal.SIGTERM)
    house.time += 1000.0
    house.parent.tick()
    house.parent.on_signal(signal.SIGINT)
    house.killed.clear()
    house.parent.tick()
    house.time += STOP_LIMIT
    assert house.killed == []
    assert house.parent.wait() == 0.0
    house.parent.tick()
    assert house.killed == [(new, signal.SIGKILL), (old, signal.SIGKILL)]
    assert house.parent.wait() is None
    assert capfd.readouterr().err.count("killed") == 2


def test_a_stop_lets_go_of_the_sockets(house: House, listener: socket.socket) -> None:
    house.serving(listener)
    port = listener.getsockname()[1]
    listener.close()
    house.parent.on_signal(signal.SIGTERM)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_reload_is_for_the_one_that_serves_and_a_new_log_for_all(house: House) -> None:
    old = house.serving()
    new = house.upgrade()
    house.say(new, {"ready": True})
    house.parent.on_signal(signal.SIGHUP)
    house.parent.on_signal(signal.SIGUSR1)
    assert house.killed == [(new, signal.SIGHUP), (new, signal.SIGUSR1), (old, signal.SIGUSR1)]


def test_the_parent_gives_up_root_with_the_one_that_serves(house: House) -> None:
    first = house.serving()
    assert house.became == []
    failing = house.upgrade()
    house.end(failing, 1)
    assert house.became == []
    second = house.upgrade()
    house.say(second, {"ready": True, "become": [65534, 65534, [7]]})
    assert house.became == [(65534, 65534, [7])]
    house.roots.add(first)
    house.parent.on_signal(signal.SIGTERM)  # The one that retires is another user's.
    assert house.killed == [(second, signal.SIGTERM)]


def test_variables_of_a_file_are_for_the_successor_and_those_after_it(
    house: House, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("# of today\n\nB=2=3\n")
    old = house.serving()
    house.say(old, {"upgrade": True, "env_file": str(file)})
    new = max(house.children)
    assert house.children[new].environ == {"A": "1", "B": "2=3"}
    house.say(new, {"ready": True})
    assert house.children[house.upgrade()].environ == {"A": "1", "B": "2=3"}


@pytest.mark.parametrize("content", ["B", "=2", "1B=2", "B C=2", "B=\0"])
def test_a_line_that_is_no_variable_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(f"A=1\n{content}\n")
    with pytest.raises(ValueError, match="line 2: "):
        read_env(str(file))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("directory", "no regular file"),
        ("pipe", "no regular file"),
        ("device", "no regular file"),
        ("large", "1048576 bytes"),
    ],
)
def test_a_file_of_variables_that_might_never_end_is_not_read(
    kind: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "env"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("A=1\n" * (LARGEST_ENV // 4 + 1))
    with pytest.raises(ValueError, match=reason):
        read_env(str(path))


def test_a_missing_file_of_variables_refuses_the_upgrade(house: House, tmp_path: Path) -> None:
    old = house.serving()
    house.say(old, {"upgrade": True, "env_file": str(tmp_path / "none")})
    [told] = house.children[old].told()
    assert "none" in told["reason"]


@pytest.mark.parametrize("abstract", [True, False])
def test_the_service_manager_hears_the_one_that_serves(abstract: bool, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{address}" if abstract else address)
        manager.setblocking(False)
        house = House({"NOTIFY_SOCKET": f"@{address}" if abstract else address})
        old = house.serving()
        assert "NOTIFY_SOCKET" not in house.children[old].environ
        house.say(old, {"notify": "READY=1\udcff"})
        assert manager.recv(99) == b"READY=1?"
        new = house.upgrade()
        house.say(new, {"notify": "READY=1"})
        with pytest.raises(BlockingIOError):
            manager.recv(99)
        house.close()


def test_a_service_manager_that_does_not_listen_is_no_harm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    house = House({"NOTIFY_SOCKET": str(tmp_path / "none")})
    pid = house.serving()
    house.say(pid, {"notify": "READY=1"})
    house.say(pid, {"notify": "WATCHDOG=1"})
    assert capfd.readouterr().err.count("\n") == 1
    house.close()


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "7"}, {"WATCHDOG_USEC": "1"}),
        ({"WATCHDOG_USEC": "1", "LISTEN_FDS": "1"}, {"WATCHDOG_USEC": "1"}),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}, {}),
    ],
)
def test_the_watchdog_of_the_parent_is_the_control_process_s(
    environ: dict[str, str], watchdog: dict[str, str]
) -> None:
    assert own_environ(environ, 7) == watchdog


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, ["unknown", "unknown"]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:"}, ["web", "unknown"]),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "many"}, []),
    ],
)
def test_sockets_are_passed_to_the_process_that_is_named(
    environ: dict[str, str], names: list[str]
) -> None:
    assert passed_names(environ, 7) == names
