"""Addresses and listening sockets: how they are written, shared, refused and cleaned up."""

from __future__ import annotations

import errno
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from proxy.control.sockets import (
    BindError,
    Listening,
    listen,
    listen_alone,
    parse_bind,
)


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("0.0.0.0:8080", "0.0.0.0", 8080, None),
        (":80", "", 80, None),
        ("[::1]:443", "::1", 443, None),
        ("localhost:0", "localhost", 0, None),
        ("unix:/run/web.sock", "", 0, "/run/web.sock"),
    ],
)
def test_addresses_that_are_understood(text: str, host: str, port: int, path: str | None) -> None:
    address = parse_bind(text)
    assert (address.host, address.port, address.path) == (host, port, path)


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:http", "a:65536", "::1:80"])
def test_addresses_that_are_not(text: str) -> None:
    with pytest.raises(BindError):
        parse_bind(text)


def test_every_worker_gets_a_socket_of_its_own_on_one_address() -> None:
    one = listen("web", "127.0.0.1:0", 3)
    try:
        names = {sock.getsockname() for sock in one.sockets}
        assert len(names) == 1
        assert one.address == f"127.0.0.1:{names.pop()[1]}"
        assert len({sock.fileno() for sock in one.sockets}) == 3
        assert not any(sock.get_inheritable() for sock in one.sockets)
    finally:
        one.close()


def test_sockets_of_workers_that_are_gone_are_shared_by_the_others() -> None:
    one = listen("web", "127.0.0.1:0", 4)
    try:
        a, b, c, d = one.sockets
        assert [one.of(index, 4) for index in range(4)] == [[a], [b], [c], [d]]
        assert [one.of(index, 2) for index in range(2)] == [[a, c, d], [b, c, d]]
        assert one.widened(3).sockets == one.sockets
        more = one.widened(5)
        assert more.sockets[:4] == one.sockets
        assert more.sockets[4].getsockname() == a.getsockname()
        more.sockets[4].close()
    finally:
        one.close()


def test_a_second_proxy_cannot_share_the_port_unnoticed() -> None:
    one = listen("web", "127.0.0.1:0", 1)
    try:
        for take in (lambda: listen("web", one.address, 1), lambda: listen_alone(one.address)):
            with pytest.raises(BindError, match="in use by another process"):
                take()
    finally:
        one.close()
    listen("web", one.address, 1).close()


@pytest.mark.parametrize("host", ["::", "::1"])
def test_v6_does_not_take_the_v4_port(host: str) -> None:
    """`[::]` is no v4 address: whoever wants both has both."""
    try:
        v6 = listen("v6", f"[{host}]:0", 1)
    except BindError:
        pytest.skip("this machine has no IPv6")
    port = v6.sockets[0].getsockname()[1]
    assert v6.address == f"[{host}]:{port}"
    v4 = listen("v4", f"0.0.0.0:{port}", 1)
    for reached in ("127.0.0.1", "::1"):
        socket.create_connection((reached, port), timeout=5).close()
    v4.close()
    v6.close()


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(BindError, match=r"^nowhere\.invalid:80: cannot resolve the host name"):
        listen("web", "nowhere.invalid:80", 1)


def test_all_workers_share_one_unix_socket_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = listen("web", f"unix:{path}", 2)
    assert one.of(0, 2) == one.of(1, 2) == [*one.sockets]
    assert path.is_socket()
    one.close()
    one.close()
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    one = listen("web", f"unix:{path}", 1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    one.close()


def test_a_live_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        inode = path.stat().st_ino
        with pytest.raises(BindError, match="in use"):
            listen("web", f"unix:{path}", 1)
        assert path.stat().st_ino == inode


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("data")
    with pytest.raises(BindError, match="there is a file that is no socket"):
        listen("web", f"unix:{path}", 1)
    assert path.read_text() == "data"


def test_a_socket_file_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = listen("web", f"unix:{path}", 1)
    os.rename(path, tmp_path / "old")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        one.close()
        assert path.is_socket()


def test_a_link_is_no_stale_socket(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to(tmp_path / "gone")
    with pytest.raises(BindError, match="no socket"):
        listen("web", f"unix:{tmp_path}/s", 1)
    assert not (tmp_path / "gone").exists()


def test_of_proxies_that_find_the_same_stale_socket_one_replaces_it(tmp_path: Path) -> None:
    path, together = tmp_path / "s", Barrier(6)

    def start(_: int) -> Listening | None:
        together.wait()
        try:
            return listen("web", f"unix:{path}", 1)
        except BindError:
            return None

    with ThreadPoolExecutor(6) as threads:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
            [only] = [one for one in threads.map(start, range(6)) if one is not None]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                only.sockets[0].accept()[0].close()
            only.close()
            assert not path.exists()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o200])
def test_a_socket_file_has_the_mode_that_was_asked_for(
    mode: int, umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        one = listen("web", f"unix:{tmp_path}/s", 1, mode)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
        one.close()
        listen("web", f"unix:{tmp_path}/s", 1).close()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_socket_file_is_given_to_its_owner(tmp_path: Path) -> None:
    one = listen("web", f"unix:{tmp_path}/s", 1, 0o660, (12345, 23456))
    found = (tmp_path / "s").stat()
    assert (found.st_uid, found.st_gid) == (12345, 23456)
    one.close()
    two = listen("web", f"unix:{tmp_path}/s", 1, None, (-1, 23456))
    found = (tmp_path / "s").stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), 23456)
    two.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give a file to anybody")
def test_a_socket_that_may_not_be_given_away_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="0:0"):
        listen("web", f"unix:{tmp_path}/s", 1, 0o660, (0, 0))
    assert not (tmp_path / "s").exists()


def test_a_path_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=os.strerror(errno.ENOENT)):
        listen("web", f"unix:{tmp_path}/none/s", 1)
