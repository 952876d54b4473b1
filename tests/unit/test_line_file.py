"""The file behind the access log: whole lines, losses counted, nobody kept waiting."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from proxy.engine import line_file
from proxy.engine.line_file import LineFile, open_for_append

PATIENCE = 10.0


def lines(*texts: str) -> memoryview:
    return memoryview("".join(f"{text}\n" for text in texts).encode())


def put(file: LineFile, *texts: str) -> None:
    file.put(lines(*texts), len(texts))


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before\n")
    file = LineFile(str(path))
    put(file, "one", "two")
    put(file, "three")
    file.close(PATIENCE)
    assert path.read_text() == "before\none\ntwo\nthree\n"
    assert file.dropped == 0


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    LineFile(str(path)).close(PATIENCE)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_reopening_parts_what_came_before_from_what_comes_after(tmp_path: Path) -> None:
    path, moved = tmp_path / "a.log", tmp_path / "a.log.1"
    file = LineFile(str(path))
    put(file, "old")
    path.touch()
    path.rename(moved)
    put(file, "still old")
    file.reopen()
    put(file, "new")
    file.close(PATIENCE)
    assert moved.read_text() + path.read_text() == "old\nstill old\nnew\n"
    assert path.read_text().endswith("new\n")


def test_a_file_that_cannot_be_reopened_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "a.log"
    file = LineFile(str(path))
    put(file, "one")
    file.reopen()  # By now it exists.
    moved = tmp_path / "gone"
    while not path.exists():
        threading.Event().wait(0.001)
    directory.rename(moved)
    file.reopen()
    put(file, "two")
    file.close(PATIENCE)
    assert (moved / "a.log").read_text() == "one\ntwo\n"
    assert file.dropped == 0
    assert os.strerror(errno.ENOENT) in file.error


def test_a_file_that_cannot_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "TRY_AGAIN", 0.0)
    path = tmp_path / "d" / "a.log"
    file = LineFile(str(path))
    put(file, "one", "two")
    while file.dropped < 2:
        threading.Event().wait(0.001)
    path.parent.mkdir()
    put(file, "three")
    file.close(PATIENCE)
    assert path.read_text() == "three\n"
    assert file.dropped == 2


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    file = LineFile("/dev/full")
    put(file, "one", "two")
    put(file, "three")
    file.close(PATIENCE)
    assert file.dropped == 3
    assert file.error == os.strerror(errno.ENOSPC)


def test_a_line_that_was_cut_ends_before_the_next_one(tmp_path: Path) -> None:
    """As on a disk that is full in the middle of a write; here it is a pipe."""
    reader, writer = os.pipe()
    path = tmp_path / "a.log"
    file = LineFile(str(path))
    os.set_blocking(writer, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_file, "PATIENCE", 0.05)
        put(file, "first")
        file.close(PATIENCE)
        file._fd = writer  # A regular file's way of writing, on something that can be full.
        file._in_one_piece = True
        capacity = 65536
        file._write(lines(*["x" * 999] * 100), 100)
        assert file.dropped == 100 - capacity // 1000
        got = os.read(reader, 1 << 20)
        file._write(lines("next"), 1)
        got += os.read(reader, 1 << 20)
    rows = got.split(b"\n")
    assert rows[-2:] == [b"next", b""]
    assert 0 < len(rows[-3]) < 999
    assert {len(row) for row in rows[:-3]} == {999}
    os.close(reader)
    os.close(writer)


def test_a_reader_that_stopped_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LineFile(str(path))
    batch = lines(*["x" * 99] * 1000)
    for _ in range(100):
        file.put(batch, 1000)
    assert file.dropped >= 1000 * (100 - line_file.MAX_WAITING // 100_000 - 2)
    file.close(0.05)  # It does not wait for ever either.
    os.set_blocking(reader, True)
    got = b""
    while data := os.read(reader, 1 << 20):
        got += data
    os.close(reader)
    file._thread.join(PATIENCE)
    assert got == bytes(batch) * (100 - file.dropped // 1000)


def test_a_reader_that_left_costs_lines(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = open_for_append(str(path))
    file = LineFile(str(path))
    put(file, "one")
    while not file._disposed:
        threading.Event().wait(0.001)
    assert os.read(reader, 10) == b"one\n"
    os.close(reader)
    put(file, "two")
    file.close(PATIENCE)
    os.close(fd)
    assert file.dropped == 1
    assert file.error == os.strerror(errno.EPIPE)


def test_writers_of_one_pipe_do_not_interleave(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files = [LineFile(str(path)) for _ in range(3)]
    for number, file in enumerate(files):
        text = str(number)
        for size in range(20):
            put(file, *[text * (1 + 200 * size)] * 15)
    os.set_blocking(reader, True)
    wanted = sum(len(str(1)) * (1 + 200 * size) + 1 for size in range(20)) * 15 * 3
    got = b""
    while len(got) < wanted:
        got += os.read(reader, 1 << 20)
    for file in files:
        file.close(PATIENCE)
    os.close(reader)
    rows = got.splitlines()
    assert len(rows) == 3 * 20 * 15
    assert all(len(set(row)) == 1 for row in rows)
