"""What is opened of what somebody may have put in the place of a log or a snapshot, and what not.

Each case prepares a directory and names a path in it. Opening never waits, whatever is there; the
limit of a test is what would say so.
"""

from __future__ import annotations

import errno
import os
import pty
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy import files
from proxy.engine.line_file import open_for_append
from proxy.membership import Membership
from proxy.registry.decorators.snapshot import SnapshotError
from proxy.registry.decorators.snapshot_file import SnapshotFile
from tests.support.manual_provider import save_snapshot

STRANGER = 65534
EMPTY = Membership(services={})
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can prepare this")
Prepare = Callable[[Path], Path]


def victim(directory: Path) -> Path:
    """What must not be touched."""
    path = directory / "victim"
    path.write_text("precious")
    return path


def everybodys(directory: Path, mode: int = 0o777) -> Path:
    shared = directory / "shared"
    shared.mkdir()
    shared.chmod(mode)
    return shared


def link_in_everybodys_directory(directory: Path, mode: int = 0o777) -> Path:
    path = everybodys(directory, mode) / "file"
    path.symlink_to(victim(directory))
    return path


def link_in_a_sticky_directory(directory: Path) -> Path:
    return link_in_everybodys_directory(directory, 0o1777)


def link_to_nothing(directory: Path) -> Path:
    path = everybodys(directory) / "file"
    path.symlink_to(directory / "victim")
    return path


def link_on_the_way(directory: Path) -> Path:
    link = everybodys(directory) / "logs"
    link.symlink_to(directory)
    victim(directory)
    return link / "victim"


def link_behind_a_link_of_ours(directory: Path) -> Path:
    path = directory / "mine"
    path.symlink_to(link_in_everybodys_directory(directory))
    return path


def link_of_a_stranger(directory: Path) -> Path:
    path = directory / "file"
    path.symlink_to(victim(directory))
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return path


def link_in_a_strangers_directory(directory: Path) -> Path:
    path = link_in_everybodys_directory(directory, 0o755)
    os.chown(path.parent, STRANGER, STRANGER)
    return path


def second_name(directory: Path) -> Path:
    path = everybodys(directory) / "file"
    path.hardlink_to(victim(directory))
    return path


def loop(directory: Path) -> Path:
    path = directory / "file"
    path.symlink_to(path)
    return path


def a_directory(directory: Path) -> Path:
    (directory / "file").mkdir()
    return directory / "file"


def pipe(directory: Path) -> Path:
    os.mkfifo(directory / "file")
    return directory / "file"


def unix_socket(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(directory / "file"))
    return directory / "file"


def disk(directory: Path) -> Path:
    os.mknod(directory / "file", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    return directory / "file"


def below_a_file(directory: Path) -> Path:
    return victim(directory) / "file"


def another_processes_output(directory: Path) -> Path:
    return Path(f"/proc/{os.getppid()}/fd/1")


def some_descriptor(directory: Path) -> Path:
    return Path("/dev/fd/0")


REFUSED: dict[Prepare, str] = {
    link_in_everybodys_directory: "is a link in a directory that everybody may write to",
    link_in_a_sticky_directory: "is a link in a directory that everybody may write to",
    link_to_nothing: "is a link in a directory that everybody may write to",
    link_on_the_way: "shared/logs is a link in a directory that everybody may write to",
    link_behind_a_link_of_ours: "shared/file is a link in a directory that everybody may write to",
    link_of_a_stranger: f"is a link of user {STRANGER}, which is not followed",
    link_in_a_strangers_directory: f"is a link in a directory of user {STRANGER}",
    second_name: "has another name, and others may write to its directory",
    loop: os.strerror(errno.ELOOP),
    a_directory: "is a directory",
    pipe: "is a named pipe that nobody reads",
    unix_socket: "is a socket",
    disk: "is a block device",
    below_a_file: os.strerror(errno.ENOTDIR),
    another_processes_output: "is a descriptor other than /dev/stdout and /dev/stderr",
    some_descriptor: "is a descriptor other than /dev/stdout and /dev/stderr",
}
ROOTS = (link_of_a_stranger, link_in_a_strangers_directory, disk, another_processes_output)
CASES = [
    pytest.param(case, words, id=case.__name__, marks=[root] if case in ROOTS else [])
    for case, words in REFUSED.items()
]


@contextmanager
def untouched(directory: Path) -> Iterator[None]:
    """The victim is as it was, or is still not there."""

    def look() -> object:
        path = directory / "victim"
        return (path.read_text(), path.stat().st_ino) if path.exists() else None

    before = look()
    yield
    assert look() == before


@pytest.mark.parametrize(("prepare", "words"), CASES)
def test_a_log_is_refused(prepare: Prepare, words: str, tmp_path: Path) -> None:
    path = prepare(tmp_path)
    with untouched(tmp_path), pytest.raises(OSError) as caught:  # noqa: PT011
        open_for_append(str(path))
    assert words in str(caught.value.strerror)


@pytest.mark.parametrize(("prepare", "words"), CASES)
def test_a_snapshot_is_neither_read_nor_written(
    prepare: Prepare, words: str, tmp_path: Path
) -> None:
    path = prepare(tmp_path)
    file = SnapshotFile(str(path))
    before = os.lstat(path).st_ino if os.path.lexists(path) else None
    words = words.removesuffix(" that nobody reads")
    with untouched(tmp_path):
        with pytest.raises(SnapshotError, match=words):
            file.load()
        with pytest.raises(SnapshotError):
            file.save(EMPTY, 1.0)
        assert before is None or os.lstat(path).st_ino == before
        assert not [*tmp_path.rglob("*.new*")]


@root
def test_a_device_is_not_replaced_by_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "null"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    file = SnapshotFile(str(path))
    with pytest.raises(SnapshotError):
        file.save(EMPTY, 1.0)
    with pytest.raises(SnapshotError, match="device"):
        file.load()
    assert path.is_char_device()


@root
def test_a_strangers_file_is_taken_only_where_it_cannot_be_a_trap(tmp_path: Path) -> None:
    path = everybodys(tmp_path) / "file"
    save_snapshot(path, EMPTY, 1.0)
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(SnapshotError, match=f"user {STRANGER}"):
        SnapshotFile(str(path)).load()
    os.close(open_for_append(str(path)))  # Somebody else rotates what we write.
    path.parent.chmod(0o1777)
    with pytest.raises(OSError, match=f"user {STRANGER}"):
        open_for_append(str(path))
    path.parent.chmod(0o755)
    os.close(open_for_append(str(path)))
    assert SnapshotFile(str(path)).load() is not None


def test_links_that_an_operator_has_put_there_are_followed(tmp_path: Path) -> None:
    """Also where the directory's group may write, as in some systems' /var/log."""
    (tmp_path / "disk/log").mkdir(parents=True)
    (tmp_path / "log").symlink_to("disk/log")
    (tmp_path / "disk").chmod(0o775)
    (tmp_path / "disk/log/current").symlink_to("../log/1")
    path = tmp_path / "log/./current"
    fd = open_for_append(str(path))
    os.write(fd, b"line\n")
    os.close(fd)
    assert (tmp_path / "disk/log/1").read_text() == "line\n"
    (tmp_path / "pools.json").symlink_to("disk/pools.json")
    save_snapshot(tmp_path / "pools.json", EMPTY, 1.0)
    assert (tmp_path / "pools.json").is_symlink()
    assert SnapshotFile(str(tmp_path / "disk/pools.json")).load() is not None


def test_a_path_may_be_relative(tmp_path: Path) -> None:
    before = os.getcwd()
    (tmp_path / "a").mkdir()
    os.chdir(tmp_path / "a")
    try:
        os.close(open_for_append("../b.log"))
    finally:
        os.chdir(before)
    assert (tmp_path / "b.log").exists()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"])
def test_our_own_output_is_what_we_have_open(name: str, tmp_path: Path) -> None:
    link = tmp_path / "access.log"
    link.symlink_to(name)  # As the images of other proxies have it.
    number = 2 if name.endswith(("2", "err")) else 1
    for path in (name, str(link)):
        fd = open_for_append(path)
        assert os.path.samestat(os.fstat(fd), os.fstat(number))
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_log_may_be_a_terminal_or_nothing() -> None:
    controller, terminal = pty.openpty()
    for path in (os.ttyname(terminal), "/dev/null"):
        fd = open_for_append(path)
        assert os.get_blocking(fd)
        os.close(fd)
    os.close(controller)
    os.close(terminal)


def test_a_file_an_operator_names_is_read_whatever_leads_there(tmp_path: Path) -> None:
    """Volumes of configuration are made of links, in directories that everybody may write to."""
    path = link_in_everybodys_directory(tmp_path)
    assert files.read(str(path), 100) == b"precious"
    assert files.read(str(path), 3) == b"prec"


@pytest.mark.parametrize("prepare", [pipe, unix_socket, a_directory])
def test_a_file_one_would_have_to_wait_for_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    words = REFUSED[prepare].removesuffix(" that nobody reads")
    with pytest.raises(files.Refused) as caught:
        files.read(str(prepare(tmp_path)), 100)
    assert caught.value.strerror == words


def test_a_pipe_that_was_given_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"routes")
    os.close(writer)
    try:
        assert files.read(f"/dev/fd/{reader}", 100) == b"routes"
    finally:
        os.close(reader)
