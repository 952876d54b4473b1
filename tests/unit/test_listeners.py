"""Which sockets listeners have, from one configuration to the next."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from proxy.control.listeners import Listeners
from proxy.control.sockets import BindError, parse_bind
from proxy.settings.listener import ListenerSettings
from tests.support.processes import free_port


def bind() -> str:
    return f"127.0.0.1:{free_port()}"


def web(name: str, address: str, mode: int | None = None) -> ListenerSettings:
    return ListenerSettings(name=name, bind=address, mode=mode)


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


def change(listeners: Listeners, *wanted: ListenerSettings, workers: int = 2) -> set[int]:
    """Put these in force; the numbers of the sockets that are gone."""
    before, listeners.current = listeners.current, listeners.prepare(wanted, workers)
    listeners.begin(before)
    named(listeners, workers)
    return listeners.drop(before)


def named(listeners: Listeners, workers: int = 2) -> dict[int, str]:
    """Names of listeners by the numbers of their sockets."""
    return {
        number: name
        for index in range(workers)
        for number, (name, _, _) in listeners.of(index, workers).items()
    }


def reached(address: str) -> bool:
    at = parse_bind(address)
    with socket.socket() as client:
        return client.connect_ex((at.host, at.port)) == 0


def test_addresses_that_stay_keep_their_sockets_whatever_listener_has_them(
    listeners: Listeners,
) -> None:
    one, two, three = bind(), bind(), bind()
    change(listeners, web("a", one), web("b", two))
    assert named(listeners) == {1: "a", 2: "b", 3: "a", 4: "b"}
    assert change(listeners, web("b", one), web("a", two)) == set()
    assert named(listeners) == {1: "b", 2: "a", 3: "b", 4: "a"}
    assert change(listeners, web("c", one), web("a", three)) == {2, 4}
    assert named(listeners) == {1: "c", 3: "c", 5: "a", 6: "a"}
    assert [reached(at) for at in (one, two, three)] == [True, False, True]


def test_more_workers_get_sockets_and_those_of_fewer_are_shared(listeners: Listeners) -> None:
    at = web("a", bind())
    change(listeners, at, workers=1)
    assert list(listeners.of(0, 1)) == [1]
    assert change(listeners, at, workers=3) == set()
    assert [list(listeners.of(index, 3)) for index in range(3)] == [[1], [2], [3]]
    assert change(listeners, at, workers=2) == set()
    assert [list(listeners.of(index, 2)) for index in range(2)] == [[1, 3], [2, 3]]


def test_an_address_that_cannot_be_had_changes_nothing(listeners: Listeners) -> None:
    one, new = bind(), bind()
    change(listeners, web("a", one))
    before = listeners.current
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(BindError, match=f"listener c: cannot listen on {taken}: .* in use"):
            listeners.prepare([web("a", one), web("b", new), web("c", taken)], 2)
    assert listeners.current is before
    assert reached(one)
    with socket.socket() as free:
        free.bind((parse_bind(new).host, parse_bind(new).port))


def test_an_address_within_one_of_ours_takes_its_place(listeners: Listeners) -> None:
    port = free_port()
    change(listeners, web("a", f"0.0.0.0:{port}"))
    assert len(change(listeners, web("a", f"127.0.0.1:{port}"))) == 2
    assert listeners.current[0].address == f"127.0.0.1:{port}"
    assert len(change(listeners, web("a", f"0.0.0.0:{port}"))) == 2
    assert reached(f"127.0.0.1:{port}")


def test_an_address_is_shared_by_those_that_say_so() -> None:
    listener, one, two = web("a", bind()), Listeners(), Listeners()
    shared = structs.replace(listener, share=True)
    try:
        change(one, shared)
        with pytest.raises(BindError, match="in use"):
            two.prepare([listener], 2)
        change(two, shared)
        one.close()
        assert reached(listener.bind)
    finally:
        one.close()
        two.close()


def test_sockets_that_were_prepared_and_are_not_wanted_are_closed(listeners: Listeners) -> None:
    one, two = bind(), bind()
    change(listeners, web("a", one))
    prepared = listeners.prepare([web("a", one), web("b", two)], 3)
    listeners.drop(prepared)
    assert named(listeners) == {1: "a", 2: "a"}
    assert change(listeners, web("a", two)) == {1, 2}


def test_the_file_of_a_socket_gets_its_mode_and_goes_with_its_listener(
    listeners: Listeners, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    change(listeners, web("a", f"unix:{path}", 0o600))
    found = path.stat()
    change(listeners, web("a", f"unix:{path}", 0o666))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    umask = os.umask(0o022)
    try:
        change(listeners, web("b", f"unix:{path}"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    finally:
        os.umask(umask)
    assert path.stat().st_ino == found.st_ino
    assert change(listeners) == {1}
    assert not path.exists()


def test_a_file_that_is_gone_gets_no_mode_and_a_folder_that_is_not_there_is_an_error(
    listeners: Listeners, tmp_path: Path
) -> None:
    change(listeners, web("a", f"unix:{tmp_path}/s"))
    [one] = listeners.current
    os.unlink(tmp_path / "s")
    # Somebody else's file, if there is one, is left alone.
    replace(one, mode=0o600, owner=(1, 1)).permit(one)
    with pytest.raises(BindError, match=os.strerror(errno.ENOENT)):
        listeners.prepare([web("b", f"unix:{tmp_path}/none/s")], 1)
