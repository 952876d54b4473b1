"""`fairlead register` as a process, with real etcd: how its command ends, and how it is ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner

from proxy.cli import main
from proxy.register import Record
from proxy.register.sidecar import Sidecar, SidecarSettings
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.static.options import Options as StaticOptions
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.support.processes import AwaitedProcess, alive, eventually, free_port

KEY = "/services/users/a"


class RunningSidecar(AwaitedProcess):
    """Owns one `fairlead register` process and its log."""

    def __init__(self, directory: Path, etcd: str) -> None:
        super().__init__((), directory / "sidecar.log", {"PYTHONUNBUFFERED": "1"})
        self._etcd = etcd

    def start(self, *options: str, command: tuple[str, ...] = (), first: bool = False) -> None:
        """`first`: as process 1 of a PID namespace of its own."""
        self._command = [
            *(UNSHARE if first else ()),
            *(sys.executable, "-m", "proxy", "register"),
            *("--service", "users", "--id", "a", "--port", "80", "--address", "10.0.0.1"),
            *("--endpoints", self._etcd, "--ttl", "3s", "--drain-wait", "300ms"),
            *options,
            *(("--", *command) if command else ()),
        ]
        self.launch()

    def events(self) -> list[str]:
        """Names of the side-car's own log lines, in order."""
        lines = (line for line in self.log().splitlines() if line.startswith("{"))
        return [json.loads(line)["event"] for line in lines]

    async def logged(self, event: str, within: float = 10.0) -> None:
        await eventually(lambda: event in self.events(), within, f"{event} in the log")


UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def etcd() -> AsyncIterator[EtcdServer]:
    """One for all tests here; those that kill it bring their own."""
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd.url) as client:
        await client.delete("/", prefix=True)
        yield client


@pytest.fixture
async def sidecar(etcd: EtcdServer, tmp_path: Path) -> AsyncIterator[RunningSidecar]:
    running = RunningSidecar(tmp_path, etcd.url)
    yield running
    await running.kill()


async def record_at(client: EtcdClient) -> dict[str, Any] | None:
    value = (await client.get_all(KEY)).get(KEY)
    return None if value is None else json.loads(value)


def registered(client: EtcdClient) -> Callable[[], Any]:
    return lambda: record_at(client)


def status_is(client: EtcdClient, status: str) -> Callable[[], Any]:
    async def check() -> bool:
        found = await record_at(client)
        return found is not None and found["health"]["status"] == status

    return check


# -------------------------------------------------------------------- the command ends


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)],
)
async def test_the_exit_code_is_that_of_the_command(
    script: str, code: int, sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    sidecar.start(command=("/bin/sh", "-c", f"read line < {gate}; {script}"))
    await eventually(registered(client), 10, "registered")
    start = time.monotonic()
    await asyncio.to_thread(gate.write_text, "go\n")
    assert await sidecar.wait() == code
    assert time.monotonic() - start < 3  # No draining for what is gone already.
    assert await client.get_all("/") == {}
    assert "draining" not in sidecar.events()


@pytest.mark.parametrize(("command", "code"), [("/no/such/command", 127), ("/etc/passwd", 126)])
async def test_a_command_that_cannot_be_started(
    command: str, code: int, sidecar: RunningSidecar, client: EtcdClient
) -> None:
    sidecar.start(command=(command,))
    assert await sidecar.wait() == code
    assert sidecar.events() == ["command_not_started"]
    assert await client.get_all("/") == {}


# ------------------------------------------------------------------------ it is stopped


async def test_sigterm_while_healthy_goes_in_order(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    note = tmp_path / "stopped"
    script = f"trap 'date > {note}; exit 5' TERM; while :; do sleep 0.05; done"
    sidecar.start(
        *(
            "--check",
            "exec:true",
            "--weight",
            "3",
            "--protocol",
            "h2c",
            "--meta",
            "zone=eu",
            "--version",
            "1.2",
        ),
        command=("/bin/sh", "-c", script),
    )
    await eventually(status_is(client, "healthy"), 10, "healthy")
    found = await record_at(client)
    assert found is not None
    assert (found["version"], found["metadata"]) == (
        "1.2",
        {"zone": "eu", "weight": "3", "protocol": "h2c"},
    )
    sidecar.signal(signal.SIGTERM)
    await eventually(status_is(client, "draining"), 3, "draining")
    assert not note.exists()

    async def gone() -> bool:
        return await record_at(client) is None

    await eventually(gone, 3, "deregistered")
    assert await sidecar.wait() == 5
    assert note.exists()
    events = sidecar.events()
    order = ["command_started", "registered", "stopping", "draining", "deregistered"]
    assert [event for event in events if event in order] == order


async def test_sigterm_while_starting(sidecar: RunningSidecar, client: EtcdClient) -> None:
    """Never well so far: nobody was sent here, and still it leaves in order."""
    sidecar.start("--check", "exec:false", command=("sleep", "60"))
    await sidecar.logged("command_started")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 143
    assert await client.get_all("/") == {}


async def test_sigterm_before_it_is_up(sidecar: RunningSidecar, client: EtcdClient) -> None:
    sidecar.start(command=("sleep", "60"))
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() in (143, -signal.SIGTERM)
    assert await client.get_all("/") == {}


async def test_a_second_signal_skips_what_it_waits_for(
    sidecar: RunningSidecar, client: EtcdClient
) -> None:
    sidecar.start(
        *("--drain-wait", "1m", "--stop-timeout", "1m"),
        command=("/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"),
    )
    await eventually(registered(client), 10, "registered")
    sidecar.signal(signal.SIGTERM)
    await sidecar.logged("draining")
    sidecar.signal(signal.SIGINT)
    await sidecar.logged("deregistered")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 137


async def test_a_command_that_ignores_sigterm_is_killed_with_all_it_started(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    inner = f"trap '' TERM; echo $$ >> {note}; while :; do sleep 0.05; done"
    sidecar.start(*("--stop-timeout", "300ms"), command=("/bin/sh", "-c", f"({inner}) & {inner}"))
    await eventually(registered(client), 10, "registered")
    await eventually(lambda: note.exists() and len(note.read_text().split()) == 2, 5, "both run")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 137
    assert "command_killed" in sidecar.events()
    pids = {int(pid) for pid in note.read_text().split()}
    await eventually(lambda: not any(map(alive, pids)), 3, "none of them lives")


async def test_children_a_shell_leaves_behind_are_stopped_too(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    """The shell ends with SIGTERM at once; its child is asked as well, and gets its time."""
    note = tmp_path / "note"
    child = f"trap 'sleep 0.2; echo clean >> {note}; exit' TERM; while :; do sleep 0.05; done"
    sidecar.start(command=("/bin/sh", "-c", f"({child}) & echo up > {note}; wait"))
    await eventually(registered(client), 10, "registered")
    await eventually(note.exists, 3, "the child runs")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 143
    assert note.read_text().split() == ["up", "clean"]


async def test_other_signals_are_the_commands_own(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    numbers = ("HUP", "USR1", "USR2", "QUIT")
    traps = "; ".join(f"trap 'echo {name} >> {note}' {name}" for name in numbers)
    script = f"{traps}; echo up >> {note}; while :; do sleep 0.05; done"
    sidecar.start(command=("/bin/sh", "-c", script))
    await eventually(registered(client), 10, "registered")
    await eventually(note.exists, 3, "the traps are set")
    for name in numbers:
        sidecar.signal(signal.Signals[f"SIG{name}"])
        await eventually(lambda name=name: name in note.read_text(), 3, name)  # type: ignore[misc]
    assert await record_at(client) is not None
    # To its end: killing the side-car would leave a command that traps signals behind.
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 143


# ----------------------------------------------------------------------- without a command


async def test_without_a_command_it_registers_somebody_elses_instance(
    sidecar: RunningSidecar, client: EtcdClient
) -> None:
    sidecar.start()
    await eventually(registered(client), 10, "registered")
    sidecar.signal(signal.SIGINT)
    await eventually(status_is(client, "draining"), 3, "draining")
    assert await sidecar.wait() == 0
    assert await client.get_all("/") == {}


async def test_health_follows_the_check(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    well = tmp_path / "well"
    sidecar.start(
        *("--check", f"exec:cat {well}", "--interval", "50ms", "--fall", "2", "--rise", "1")
    )
    await eventually(status_is(client, "unhealthy"), 10, "not well yet")
    well.write_text("fine\n")
    await eventually(status_is(client, "healthy"), 5, "well")
    found = await record_at(client)
    assert found is not None
    assert found["health"]["message"] == "fine"
    well.unlink()
    await eventually(status_is(client, "unhealthy"), 5, "not well")


async def test_in_a_format_without_words_for_health_the_key_is_there_while_it_is_well(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    key = "users/10.0.0.1:80"

    async def value_is(value: bytes | None) -> bool:
        return (await client.get_all("users/")).get(key) == value

    there = b'{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}'
    well = tmp_path / "well"
    well.write_text("fine\n")
    sidecar.start(
        *("--format", "grpc", "--id", "", "--check", f"exec:cat {well}", "--interval", "50ms"),
        *("--fall", "1", "--rise", "1"),
    )
    await eventually(lambda: value_is(there), 10, "registered")
    for _ in range(2):
        well.unlink()
        await eventually(lambda: value_is(None), 5, "not well")
        well.write_text("fine\n")
        await eventually(lambda: value_is(there), 5, "well")
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.wait() == 0
    assert await client.get_all("users/") == {}
    assert "registration_missing" not in sidecar.events()


# ------------------------------------------------------------------------------ no etcd


async def test_the_command_runs_while_etcd_is_down_and_is_registered_when_it_comes(
    tmp_path: Path,
) -> None:
    port = free_port()
    sidecar = RunningSidecar(tmp_path, f"http://127.0.0.1:{port}")
    try:
        sidecar.start(command=("sleep", "60"))
        await sidecar.logged("command_started")
        await sidecar.logged("registrar_disconnected")
        async with EtcdServer(client_port=port) as etcd, EtcdClient(etcd.url) as client:
            await eventually(registered(client), 5, "registered")
            await etcd.kill()
            start = time.monotonic()
            sidecar.signal(signal.SIGTERM)
            assert await sidecar.wait() == 143
            assert time.monotonic() - start < 6
    finally:
        await sidecar.kill()


async def test_sigterm_while_etcd_is_down(tmp_path: Path) -> None:
    sidecar = RunningSidecar(tmp_path, f"http://127.0.0.1:{free_port()}")
    try:
        sidecar.start("--drain-wait", "1m", command=("sleep", "60"))
        await sidecar.logged("registrar_disconnected")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.wait(3) == 143
    finally:
        await sidecar.kill()


# ---------------------------------------------------------------------------- process 1


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def can_unshare() -> bool:
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this machine does not allow PID namespaces")
async def test_as_process_1_it_reaps_orphans_and_keeps_the_code(
    sidecar: RunningSidecar, client: EtcdClient, tmp_path: Path
) -> None:
    note = tmp_path / "zombies"
    # Ten orphans, which end while the command runs; none of them may stay a zombie.
    orphans = "for i in 0 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &); done"
    count = "grep -h '^State:.Z' /proc/[0-9]*/status | wc -l"
    script = f"{orphans}; sleep 0.5; {count} > {note}; echo $PPID >> {note}; exit 9"
    sidecar.start(command=("/bin/sh", "-c", script), first=True)
    assert await sidecar.wait() == 9
    zombies, parent = note.read_text().split()
    assert (zombies, parent) == ("0", "2")  # the side-car itself is the child of process 1
    assert await client.get_all("/") == {}


@pytest.mark.skipif(not can_unshare(), reason="this machine does not allow PID namespaces")
async def test_as_process_1_it_leaves_in_order(sidecar: RunningSidecar, client: EtcdClient) -> None:
    sidecar.start(command=("sleep", "60"), first=True)
    await eventually(registered(client), 10, "registered")
    # `unshare` hands no signals on, so it goes to process 1 itself.
    os.kill(only_child(sidecar.pid), signal.SIGTERM)
    await eventually(status_is(client, "draining"), 3, "draining")
    assert await sidecar.wait() == 143
    assert await client.get_all("/") == {}


# ------------------------------------------------------------------------- bad command lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--service"),
        (["--service", "users"], "--port"),
        (["--service", "users", "--port", "0"], "--port"),
        (["--service", "users", "--port", "80", "--ttl", "10"], "--ttl"),
        (["--service", "users", "--port", "80", "--meta", "zone"], "K=V"),
        (["--service", "users", "--port", "80", "--format", "krato"], '(did you mean "kratos"?)'),
    ],
)
def test_a_command_line_that_is_none(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["register", *options, "--", "false"])
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"check": "htp://x"}, "check: 'htp://x'.*allowed are http://"),
        ({"record": Record(service="users", id="a/b", port=80)}, "id: 'a/b'"),
        ({"record": Record(service="users", address="10.0.0", port=80)}, 'address "10.0.0"'),
        ({"registry": EtcdOptions(endpoints=("127.0.0.1:1",))}, "endpoint"),
        ({"registry": StaticOptions()}, "registry.type"),
        ({"ttl": 0.0}, "ttl"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], words: str) -> None:
    good = SidecarSettings(
        record=Record(service="users", port=80),
        registry=EtcdOptions(endpoints=("http://127.0.0.1:2379",)),
    )
    with pytest.raises(ValueError, match=words):
        Sidecar(msgspec.structs.replace(good, **change))


async def test_settings_that_cannot_work_start_nothing(sidecar: RunningSidecar) -> None:
    sidecar.start("--check", "htp://x", command=("echo", "started"))
    assert await sidecar.wait() == 2
    assert "'htp://x'" in sidecar.log()
    assert "started" not in sidecar.log()
