"""The command line as a user meets it: output, exit codes, and one clear line per failure."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest
from aiohttp import web
from click.testing import CliRunner

import proxy as package
from proxy.cli import main
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

ROOT = Path(__file__).parents[2]

CONFIG: dict[str, Any] = {
    "services": {
        "users": {
            "balancer": "least_connections",
            "instances": [
                {"id": "one", "address": "127.0.0.1", "port": 1},
                {"id": "two", "address": "127.0.0.1", "port": 2, "weight": 0},
            ],
        }
    },
    "routes": [
        {"path_prefix": "/users", "strip_prefix": True, "service": "users"},
        {"path_prefix": "/old", "methods": ["POST"], "service": "users"},
    ],
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


async def fairlead(
    *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of one command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *arguments),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment(), **(environ or {})},
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_version(tmp_path: Path) -> None:
    for word in ("version", "--version"):
        code, output, errors = await fairlead(word, cwd=tmp_path)
        assert (code, output, errors) == (0, f"fairlead {package.__version__}\n", "")


async def test_bad_usage_is_2(tmp_path: Path) -> None:
    for arguments in (("nonsense",), ("run", "--nonsense"), ("instances",), ()):
        code, _, errors = await fairlead(*arguments, cwd=tmp_path)
        assert (code, bool(errors)) == (2, True), arguments


async def test_check_and_run_print_every_complaint(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("workers: none\nroutes:\n  - {path_prefix: nope, service: a}\nnosuch: 1\n")
    code, complaints, errors = await fairlead("check", "-c", "bad.yaml", cwd=tmp_path)
    assert (code, errors) == (2, "")
    lines = complaints.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("bad.yaml:") for line in lines)
    for place in ("workers", "routes.0.path_prefix", "nosuch"):
        assert f": {place}: " in complaints
    # What was asked for is output; what stands in the way is an error.
    code, output, errors = await fairlead("run", "-c", "bad.yaml", cwd=tmp_path)
    assert (code, output, errors) == (2, "", complaints)


async def test_check_of_a_good_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(json.dumps({**CONFIG, "registry": {"type": "static"}}))
    code, output, errors = await fairlead("check", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert output == "proxy.yaml: good: 1 listener, 2 routes, 1 service by name\n"


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, _, errors = await fairlead("run", "-c", "none.yaml", cwd=tmp_path)
    assert code == 2
    assert errors.startswith("none.yaml: ")
    assert errors.count("\n") == 1


async def test_asking_a_proxy_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (["services"], ["instances", "users"], ["explain", "/"]):
        code, output, errors = await fairlead(*arguments, "--admin", url, cwd=tmp_path)
        assert (code, output) == (1, "")
        assert errors.startswith("Error: ")
        assert errors.count("\n") == 1
        for told in (url, os.strerror(errno.ECONNREFUSED), "--admin"):
            assert told in errors


async def test_an_admin_url_that_is_none(tmp_path: Path) -> None:
    code, _, errors = await fairlead("services", "--admin", "localhost:9900", cwd=tmp_path)
    assert code == 2
    assert "'localhost:9900'" in errors


QUIET = ("0.0/s", "0.0/s", "-", "-", "-")
"""Rates and times of what got no request."""


async def test_asking_a_running_proxy(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        where = ("--admin", proxy.admin)

        code, output, _ = await fairlead("services", *where, cwd=tmp_path)
        assert code == 0
        head, row = output.splitlines()
        assert head.split()[:2] == ["SERVICE", "READY"]
        assert row.split() == ["users", "1/2", "0", "0", "1", "least_connections", "file", *QUIET]

        code, output, _ = await fairlead("instances", "users", *where, cwd=tmp_path)
        assert code == 0
        _, one, two = output.splitlines()
        assert one.split() == ["one", "127.0.0.1:1", "ready", "1", "0", "0", "0", *QUIET, "-"]
        drained = ["two", "127.0.0.1:2", "draining", "0", "0", "0", "0"]
        assert two.split() == [*drained, *QUIET, "-", "weight", "0"]

        code, output, _ = await fairlead("services", "--json", *where, cwd=tmp_path)
        assert (code, json.loads(output)["services"][0]["name"]) == (0, "users")
        code, output, _ = await fairlead("instances", "users", "--json", *where, cwd=tmp_path)
        assert (code, json.loads(output)["instances"][1]["status"]) == (0, "draining")

        code, output, errors = await fairlead("instances", "ghost", *where, cwd=tmp_path)
        assert (code, output) == (1, "")
        assert errors.startswith(f"Error: {proxy.admin} answered 404: ")
        assert errors.endswith("'ghost'\n")

        code, output, _ = await fairlead(
            "explain", "--method", "PUT", "--header", "X-A: 1", "/users/7?x=1", *where, cwd=tmp_path
        )
        assert code == 0
        assert output.splitlines() == [
            "request    PUT /users/7?x=1",
            "route   0 -> path /users: taken",
            "route   1    path /old, POST: path does not begin with /old",
            "service    users",
            "path       /7?x=1",
            "balancer   least_connections",
            "may be picked  one  127.0.0.1:1  ready",
            "not picked     two  127.0.0.1:2  draining (weight 0)",
        ]
        code, output, _ = await fairlead("explain", "/nowhere", *where, cwd=tmp_path)
        assert code == 0
        assert output.splitlines()[-1].startswith("answer     404 no_route: ")
        code, output, _ = await fairlead("explain", "--json", "/nowhere", *where, cwd=tmp_path)
        assert json.loads(output)["answer"]["status"] == 404


async def test_services_in_trouble_are_shown_as_such(tmp_path: Path) -> None:
    """A service each: in panic, on its fallback, with an open breaker, and with a full queue."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    refused, slow = free_port(), silent.sockets[0].getsockname()[1]

    def at(port: int) -> list[dict[str, Any]]:
        return [{"id": "one", "address": "127.0.0.1", "port": port}]

    breaker = {"failure_ratio": 0.5, "min_requests": 1, "window": "60s", "open": "60s"}
    config = {
        "registry": {"type": "static"},
        "services": {
            "breaking": {"instances": at(refused), "ejection": False, "circuit_breaker": breaker},
            "calm": {"instances": at(slow)},
            "full": {
                "instances": at(slow),
                "max_inflight": 1,
                "queue": {"size": 1},
                "timeouts": {"queue": "60s"},
            },
            "lost": {"fallback_instances": at(slow)},
            "sick": {
                "instances": at(refused),
                "health_check": {"type": "tcp", "interval": "100ms", "timeout": "1s", "fall": 1},
            },
        },
        "routes": [{"path_prefix": "/{service}"}],
    }
    expected = {
        "breaking": (
            "BREAKER OPEN 1/1",
            "breaker",
            "open in 1 of 1 worker: requests are answered 503 at once",
        ),
        "full": ("QUEUE FULL", "queue", "full in 1 worker, 1 request in all: what comes on top"),
        "lost": ("FALLBACK", "fallback", "the registry knows no instance, so fallback_instances"),
        "sick": ("PANIC", "panic", "too few instances are ready, so health is ignored"),
    }
    async with RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as session:

        async def ask(path: str) -> int:
            async with session.get(proxy.url + path) as answer:
                await answer.read()
                return answer.status

        async def row(service: str) -> dict[str, Any]:
            _, document = await proxy.get("/api/v1/services")
            rows = {row["name"]: row for row in document["services"]}
            found: dict[str, Any] = rows[service]
            return found

        async def queue_is_full() -> bool:
            return bool((await row("full"))["limits"]["queue_full"])

        async def panics() -> bool:
            return bool((await row("sick"))["panic"])

        assert await ask("/breaking") == 502
        waiting = [asyncio.create_task(ask("/full")) for _ in range(2)]
        try:
            await eventually(queue_is_full, 10, "a queue that is full")
            await eventually(panics, 10, "a panic")

            async def said(*arguments: str) -> str:
                where = ("--admin", proxy.admin)
                code, output, errors = await fairlead(*arguments, *where, cwd=tmp_path)
                assert (code, errors) == (0, "")
                return output

            _, *lines = (await said("services")).splitlines()
            for line in lines:
                service, _, rest = line.partition(" ")
                short = expected[service][0] if service in expected else "-"
                assert rest.endswith(short), line
            for service, (_, topic, sentence) in expected.items():
                last = (await said("instances", service)).splitlines()[-1]
                assert last.startswith(f"{topic}: {sentence}"), last
                explained = (await said("explain", f"/{service}")).splitlines()
                assert [line for line in explained if line.startswith(f"{topic:9}  {sentence}")]
            assert len((await said("instances", "calm")).splitlines()) == 2
            document = json.loads(await said("explain", "/breaking", "--json"))
            assert document["limits"]["breaker"] == {"open": 1}
            assert json.loads(await said("explain", "/full", "--json"))["limits"]["queue_full"] == 1
            assert json.loads(await said("explain", "/lost", "--json"))["source"] == "fallback"
            assert json.loads(await said("instances", "sick", "--json"))["panic"] is True
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    silent.close()


async def test_address_and_token_come_from_the_file(tmp_path: Path) -> None:
    port = free_port()
    admin = {"bind": f"0.0.0.0:{port}", "token": "${ADMIN_TOKEN}"}
    environ = {"ADMIN_TOKEN": "s3cret"}
    proxy = RunningProxy({**CONFIG, "admin": admin}, tmp_path, environ=environ)
    proxy.admin_port = port
    async with proxy:
        (tmp_path / "proxy.yaml").write_text(proxy.file.read_text())
        code, output, _ = await fairlead("services", cwd=tmp_path, environ=environ)
        assert (code, "users" in output) == (0, True)
        # To another address than the file's, the file's token is not sent.
        where = ("services", "--admin", f"http://127.0.0.1:{port}")
        code, _, errors = await fairlead(*where, cwd=tmp_path, environ=environ)
        assert (code, "FAIRLEAD_ADMIN_TOKEN" in errors) == (1, True)
        code, _, _ = await fairlead(*where, "--token", "s3cret", cwd=tmp_path)
        assert code == 0
        code, _, _ = await fairlead(
            *where, cwd=tmp_path, environ={"FAIRLEAD_ADMIN_TOKEN": "s3cret"}
        )
        assert code == 0


async def test_registered_text_cannot_drive_the_terminal(tmp_path: Path) -> None:
    row = {"id": "a\u001b[2J", "address": "x", "port": 1, "status": "ready", "weight": 1}
    row |= {"version": "\u0007", "inflight": 0, "requests": 0, "failures": 0, "reason": ""}
    row |= {"unreachable_from": 0, "on_probation_in": 0}

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"instances": [row]})

    application = web.Application()
    application.router.add_get("/api/v1/services/users", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        where = ("--admin", f"http://127.0.0.1:{port}")
        code, output, _ = await fairlead("instances", "users", *where, cwd=tmp_path)
        assert code == 0
        assert "a\ufffd[2J" in output
        assert output.replace("\n", "").isprintable()
    finally:
        await runner.cleanup()


async def test_events_are_listed_and_followed(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        where = ("--admin", proxy.admin)
        assert (await fairlead("drain", "users/one", *where, cwd=tmp_path))[0] == 0
        code, output, errors = await fairlead("events", *where, cwd=tmp_path)
        assert (code, errors) == (0, "")
        drained = [line for line in output.splitlines() if "  drained " in line]
        assert len(drained) == 1
        assert "service=users" in drained[0]
        code, output, _ = await fairlead("events", "--json", *where, cwd=tmp_path)
        kinds = [json.loads(line)["kind"] for line in output.splitlines()]
        assert (code, kinds.count("drained")) == (0, 1)

        following = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "events", "--follow", *where,
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment(),
            # Jobs that a shell runs in the background ignore it, and so does what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert following.stdout is not None
        async with asyncio.timeout(30):
            while b"  drained " not in await following.stdout.readline():
                pass
            assert (await fairlead("undrain", "users/one", *where, cwd=tmp_path))[0] == 0
            while b"  undrained " not in await following.stdout.readline():
                pass
            following.send_signal(signal.SIGINT)
            _, said = await following.communicate()
        assert (following.returncode, said) == (0, b"")


async def test_top_is_printed_once_or_drawn_on_a_terminal(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        where = ("--admin", proxy.admin)
        code, output, _ = await fairlead("top", "--once", "--json", *where, cwd=tmp_path)
        assert (code, json.loads(output)["services"][0]["name"]) == (0, "users")
        ours, theirs = os.openpty()
        try:
            drawing = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy", "top", *where,
                cwd=tmp_path, stdin=theirs, stdout=theirs,
                env={**environment(), "TERM": "xterm", "LINES": "24", "COLUMNS": "120"},
            )  # fmt: skip
            os.set_blocking(ours, False)
            seen = b""

            async def shows(text: bytes) -> bool:
                nonlocal seen
                with contextlib.suppress(BlockingIOError):
                    seen += os.read(ours, 65536)
                return text in seen

            await eventually(lambda: shows(b"users"), 20, "the services")
            os.write(ours, b"\n")
            await eventually(lambda: shows(b"127.0.0.1:2"), 20, "the instances")
            os.write(ours, b"q")
            async with asyncio.timeout(20):
                assert await drawing.wait() == 0
        finally:
            os.close(ours)
            os.close(theirs)


ANSWERING = {
    "services": (),
    "instances": ("users",),
    "registry": (),
    "events": (),
    "top": ("--once",),
    "explain": ("/users/7",),
    "drain": ("users/one",),
    "undrain": ("users/one",),
    "weight": ("users/one", "3"),
    "reload": ("--dry-run",),
    "restart-workers": (),
    "upgrade": (),
}
"""Commands that ask a running proxy, with what they need."""
ELSEWHERE = {
    "fleet": "tests/e2e/test_fleet.py",
    "config push": "tests/e2e/test_fleet_drills.py",
    "config promote": "tests/e2e/test_fleet_drills.py",
    "config rollback": "tests/e2e/test_fleet_drills.py",
    "config pull": "tests/e2e/test_fleet_drills.py",
    "config diff": "tests/e2e/test_fleet_drills.py",
    "config history": "tests/e2e/test_fleet_drills.py",
}
"""Commands that need more than a running proxy, and where they are called."""
LOCAL = {"version", "check", "ca init", "ca issue", "ca rotate"}
"""Commands that answer without asking anybody."""
WITHOUT = {
    "run": "its log is JSON with log.format",
    "demo": "as run",
    "register": "as run",
    "sidecar": "as run",
    "ca serve": "as run",
    "schema": "is JSON",
}
"""Commands without --json, and why they need none."""


def commands(group: click.Group) -> dict[str, click.Command]:
    """Commands by their words, those of groups in place of the groups."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = commands(command) if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {rest}".strip(): one for rest, one in inner.items()}
    return found


def test_each_command_that_answers_does_so_in_json() -> None:
    with_json = {
        name
        for name, command in commands(main).items()
        if any("--json" in option.opts for option in command.params)
    }
    assert with_json == {*ANSWERING, *ELSEWHERE, *LOCAL}
    assert commands(main).keys() - with_json == WITHOUT.keys()


async def test_commands_that_ask_a_running_proxy_answer_in_json(tmp_path: Path) -> None:
    async with RunningProxy(CONFIG, tmp_path) as proxy:
        for command, needs in ANSWERING.items():
            where = ("--json", "--admin", proxy.admin)
            code, output, errors = await fairlead(command, *needs, *where, cwd=tmp_path)
            assert code == 0, (command, errors)
            told = output.splitlines() if command == "events" else [output]
            assert all(isinstance(json.loads(text), dict) for text in told), command
        _, document = await proxy.get("/api/v1/services/users")
        one = document["instances"][0]
        assert (one["status"], one["weight"]) == ("ready", 3)


async def test_a_check_in_json(tmp_path: Path) -> None:
    good = {**CONFIG, "registry": {"type": "static"}}
    (tmp_path / "proxy.yaml").write_text(json.dumps(good))
    (tmp_path / "bad.yaml").write_text("routes: [{path_prefix: nope, service: a}]\nnosuch: 1\n")
    code, output, errors = await fairlead("check", "--json", cwd=tmp_path)
    nothing: dict[str, Any] = {"complaints": [], "warnings": []}
    assert (code, errors) == (0, "")
    assert json.loads(output) == {"file": "proxy.yaml", "good": True, **nothing}
    code, output, errors = await fairlead("check", "--json", "-c", "bad.yaml", cwd=tmp_path)
    assert (code, errors) == (2, "")
    told = json.loads(output)
    assert not told["good"]
    assert [(one["line"], one["path"]) for one in told["complaints"]] == [
        (1, "routes.0.path_prefix"), (2, "nosuch"),
    ]  # fmt: skip
    assert all("allowed" in one["message"] for one in told["complaints"])


def test_commands_that_need_no_proxy_answer_in_json(tmp_path: Path) -> None:
    ca, out = str(tmp_path / "ca"), str(tmp_path / "out")
    told: dict[tuple[str, ...], Any] = {}
    for command in (
        ("version",),
        ("ca", "init", ca, "--trust-domain", "mesh.example"),
        ("ca", "issue", ca, "users", "--out", out, "--life", "1h"),
        ("ca", "rotate", ca),
    ):
        result = CliRunner().invoke(main, [*command, "--json"])
        assert result.exit_code == 0, result.output
        told[command[:2]] = json.loads(result.output)
    assert told["version",] == {"version": package.__version__}
    assert told["ca", "init"] == {"directory": ca, "trust_domain": "mesh.example"}
    assert told["ca", "issue"] == {"out": out, "service": "users", "life": 3600.0}
    assert told["ca", "rotate"].keys() == {"directory", "step"}


def complete(shell: str, mode: str, cwd: Path, **words: str) -> str:
    """Output of the installed command, which is called as it is in a shell: the variable has its
    name."""
    command = Path(sys.executable).parent / "fairlead"
    asked = {"_FAIRLEAD_COMPLETE": f"{shell}_{mode}", **words}
    done = subprocess.run(
        [command], cwd=cwd, env={**environment(), **asked}, capture_output=True, text=True,
        timeout=30, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(tmp_path: Path, shell: str) -> None:
    script = complete(shell, "source", tmp_path)
    assert f"_FAIRLEAD_COMPLETE={shell}_complete" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for words, at, wanted in (
        ("fairlead ser", "1", "services"),
        ("fairlead explain --m", "2", "--method"),
    ):
        cursor = words.rpartition(" ")[2] if shell == "fish" else at
        found = complete(shell, "complete", tmp_path, COMP_WORDS=words, COMP_CWORD=cursor)
        assert wanted in found
