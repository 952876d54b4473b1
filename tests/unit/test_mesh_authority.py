"""The small authority of the mesh: what it signs, and how its root is replaced."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli_ca import ca
from proxy.mesh.authority import Authority, Issued, create, keep, life_of, new_request, rotate
from proxy.mesh.renewal import LONGEST_PAUSE, PAUSE, Renewal, due, pause
from proxy.tls.certificates import read_pair
from proxy.tls.contexts import ServerPolicy, client_context, server_context
from proxy.tls.identity import service_of
from tests.support.certificates import Made

DAY = 86_400.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    create(tmp_path / "ca", "mesh.local")
    return tmp_path / "ca"


def signed(directory: Path, service: str = "users") -> tuple[Made, Issued]:
    key, request = new_request()
    issued = Authority(directory).sign(request, service)
    return Made(issued.chain.encode(), key), issued


def is_believed(made: Made, roots: bytes) -> str:
    """The service that a server with this certificate proves to be, to who trusts these roots and
    is as strict as Python is by default from 3.13 on."""
    client = client_context(roots)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.check_hostname = False
    near, far = (ssl.MemoryBIO() for _ in range(2))
    asking = client.wrap_bio(near, far, server_hostname="x.mesh.local")
    answering = server_context([made], ServerPolicy()).wrap_bio(far, near, server_side=True)
    for side in (asking, answering) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return service_of(asking.getpeercert() or {}, "mesh.local")


def test_a_leaf_names_its_service_in_both_ways_and_lives_for_a_day(directory: Path) -> None:
    made, issued = signed(directory)
    assert read_pair(made.cert, made.key).names == ("users.mesh.local",)
    assert is_believed(made, issued.roots.encode()) == "users"
    begin, end = life_of(made.cert)
    assert end - begin == pytest.approx(DAY + 60, abs=1)


def test_a_leaf_lives_no_longer_than_what_signs_it(directory: Path) -> None:
    _, request = new_request()
    authority = Authority(directory)
    issued = authority.sign(request, "users", timedelta(days=4000))
    leaf, issuing = issued.chain.encode(), (directory / "issuing.crt").read_bytes()
    assert life_of(leaf)[1] == pytest.approx(life_of(issuing)[1], abs=2)


def test_a_request_that_its_key_has_not_signed_is_refused(directory: Path) -> None:
    _, request = new_request()
    lines = request.split(b"\n")
    lines[-3] = lines[-3][:-8] + b"AAAAAAA="
    with pytest.raises(ValueError, match=r"(?i)signed|parsing|invalid"):
        Authority(directory).sign(b"\n".join(lines), "users")


def test_a_root_is_replaced_while_both_are_believed(directory: Path) -> None:
    old, before = signed(directory)
    rotate(directory)
    both = (directory / "ca.crt").read_bytes()
    assert is_believed(signed(directory)[0], before.roots.encode()) == "users"
    rotate(directory)
    new, _ = signed(directory)
    assert [is_believed(one, both) for one in (old, new)] == ["users", "users"]
    rotate(directory)
    alone = (directory / "ca.crt").read_bytes()
    assert is_believed(new, alone) == "users"
    with pytest.raises(ssl.SSLCertVerificationError):
        is_believed(old, alone)


@pytest.mark.parametrize("renames", range(9))
def test_a_step_that_was_interrupted_is_taken_to_its_end(
    directory: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    old, _ = signed(directory)
    rotate(directory)
    rename, left = Path.rename, iter(range(renames))

    def interrupted(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise OSError
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        try:
            said = rotate(directory)
        except OSError:
            said = ""
    if not said:
        said = rotate(directory)
    assert said.startswith("the new root signs")
    new, _ = signed(directory)
    both = (directory / "ca.crt").read_bytes()
    assert [is_believed(one, both) for one in (old, new)] == ["users", "users"]
    rotate(directory)
    assert is_believed(new, (directory / "ca.crt").read_bytes()) == "users"


@pytest.mark.parametrize("domain", ["", "Mesh Local", "a..b", "*.x", "b\u00fccher.de"])
def test_an_authority_of_what_is_no_domain_is_not_made(tmp_path: Path, domain: str) -> None:
    with pytest.raises(ValueError, match="trust domain"):
        create(tmp_path / "other", domain)
    assert not (tmp_path / "other").exists()


def test_a_domain_is_without_case(tmp_path: Path) -> None:
    create(tmp_path / "other", "MESH.local")
    made, issued = signed(tmp_path / "other")
    assert is_believed(made, issued.roots.encode()) == "users"


@pytest.mark.parametrize(
    "words",
    [
        "init {file}/x",
        "issue {ca} users --out {file}/x",
        "issue {ca} users --out {file}.d --life 0s",
        "serve {ca} --bind nowhere",
    ],
)
def test_words_that_cannot_be_followed_are_refused_in_a_line(
    directory: Path, tmp_path: Path, words: str
) -> None:
    (tmp_path / "file").touch()
    asked = words.format(ca=directory, file=tmp_path / "file").split()
    result = CliRunner().invoke(ca, asked)
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (2, True)


def test_an_authority_is_not_written_over(directory: Path) -> None:
    with pytest.raises(ValueError, match="not empty"):
        create(directory, "mesh.local")
    with pytest.raises(ValueError, match="is no authority"):
        Authority(directory / "nowhere")


def test_files_of_keys_are_for_their_owner_alone(directory: Path, tmp_path: Path) -> None:
    Authority(directory).issue("users", tmp_path / "out", timedelta(hours=1))
    keys = [directory / "root.key", directory / "issuing.key", tmp_path / "out" / "tls.key"]
    assert [one.stat().st_mode & 0o777 for one in keys] == [0o600] * 3


def test_a_leaf_is_renewed_when_a_third_of_its_life_is_left() -> None:
    assert due(0.0, 90.0, 10.0) == 50.0
    assert due(0.0, 90.0, 70.0) == 0.0


def test_pauses_after_failures_are_doubled_for_as_long_as_there_are_some() -> None:
    assert [pause(0), pause(1), pause(2)] == [PAUSE, 2 * PAUSE, 4 * PAUSE]
    assert pause(5000) == LONGEST_PAUSE


async def test_a_leaf_that_is_due_as_soon_as_it_is_there_is_not_renewed_at_once(
    directory: Path,
) -> None:
    class Counted(Renewal):
        count = 0

        async def _renew(self) -> None:
            self.count += 1

    Authority(directory).issue("users", directory, timedelta(seconds=-1))
    renewal = Counted(directory, "https://127.0.0.1:1", "mesh.local")
    task = asyncio.create_task(renewal.run())
    for _ in range(50):  # Each of them would be enough for one more.
        await asyncio.to_thread(int)
    task.cancel()
    assert renewal.count == 1


def test_files_are_replaced_all_at_once(tmp_path: Path) -> None:
    """A reader in a loop has the three of one moment, from the first files on, which were written
    by somebody else."""
    names = ("ca.crt", "tls.key", "tls.crt")
    for name in names:
        (tmp_path / name).write_text("0")
    keep(tmp_path, b"1", Issued("1", "1"))
    seen: list[set[str]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            moment = tmp_path / os.readlink(tmp_path / "..data")
            try:
                seen.append({(moment / name).read_text() for name in names})
            except FileNotFoundError:
                pass  # Two were put in place since.
            assert all((tmp_path / name).read_text() for name in names)

    reader = threading.Thread(target=read)
    reader.start()
    number = 1
    while len(set(map(tuple, seen))) < 20 and reader.is_alive():
        number += 1
        text = str(number)
        keep(tmp_path, text.encode(), Issued(text, text))
    over.set()
    reader.join()
    assert len(set(map(tuple, seen))) >= 20
    assert all(len(one) == 1 for one in seen)
    assert {(tmp_path / name).read_text() for name in names} == {str(number)}
    assert {one.name for one in tmp_path.iterdir() if not one.name.startswith("..")} == set(names)
    assert len(list(tmp_path.iterdir())) == 3 + 3
