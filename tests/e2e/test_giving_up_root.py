"""`user`: the proxy as root binds what it needs, and is somebody else from then on."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.changing import command
from tests.e2e.reloading import reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import alive, children, eventually

PRIVILEGED = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
NOBODY = pwd.getpwnam("nobody")


def _hidden() -> str | None:
    """The directory around this interpreter, or around the sources, that nobody else may enter."""
    for path in (Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__)):
        for around in reversed(path.parents):
            if not around.stat().st_mode & 0o001:
                return str(around)
    return None


def _opened() -> tuple[str, ...]:
    """A command in front of ours that lets others enter where this interpreter is, in a mount
    namespace of its own."""
    hidden = _hidden()
    if hidden is None:
        return ()
    inside = shlex.quote(sys.base_prefix)
    hidden = shlex.quote(hidden)
    script = (
        f"mount --bind {inside} /mnt && mount -t tmpfs -o mode=755 none {hidden}"
        f' && mkdir -p {inside} && mount --bind /mnt {inside} && umount /mnt && exec "$@"'
    )
    return "unshare", "--mount", "/bin/sh", "-c", script, "sh"


def _can() -> bool:
    if os.geteuid() != 0 or PRIVILEGED == 0:
        return False
    look = ("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import proxy.cli")
    with contextlib.suppress(OSError):
        return subprocess.run([*_opened(), *look], check=False, capture_output=True).returncode == 0
    return False


pytestmark = pytest.mark.skipif(not _can(), reason="needs root, and an interpreter for nobody")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that nobody may read, and write nothing to."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def privileged_port() -> int:
    for port in random.sample(range(600, PRIVILEGED), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port found")


def ids(pid: int) -> tuple[set[int], set[int], set[int]]:
    """User ids, group ids, and further groups of a process."""
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0, said["CapEff"]
    uid, gid, further = ({*map(int, said[key].split())} for key in ("Uid", "Gid", "Groups"))
    return uid, gid, further


def everybody(proxy: RunningProxy) -> list[int]:
    control = children(proxy.pid)
    return [proxy.pid, *control, *(pid for one in control for pid in children(one))]


def config(port: int, **more: Any) -> dict[str, Any]:
    return {
        "listeners": [{"name": "web", "bind": f"127.0.0.1:{port}"}],
        "routes": [{"path": "/", "respond": {"status": 204}}],
        "user": "nobody",
        **more,
    }


async def answers(port: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as got:
        return got.status == 204


async def test_a_proxy_is_nobody_in_all_its_processes_also_after_an_upgrade(
    directory: Path,
) -> None:
    port = privileged_port()
    async with RunningProxy(config(port), directory, started_by=_opened()) as proxy:
        for upgraded in (False, True):
            await eventually(lambda: len(everybody(proxy)) == 3, 15, "parent, control, worker")
            for pid in everybody(proxy):
                uid, gid, further = ids(pid)
                assert (uid, gid) == ({NOBODY.pw_uid}, {NOBODY.pw_gid}), pid
                assert further == set(os.getgrouplist("nobody", NOBODY.pw_gid))
            assert await answers(port)
            if not upgraded:
                old = proxy.control
                code, said = await command(proxy, "upgrade")
                assert code == 0, said
                await eventually(lambda old=old: not alive(old), 15, "the old one is gone")
        os.kill(proxy.control, 9)
        await eventually(lambda: len(children(proxy.pid)) == 1, 15, "another control process")
        await eventually(proxy.readyz, 15, "ready")
        assert await answers(port)


async def test_a_reload_that_needs_root_says_so_and_changes_nothing(directory: Path) -> None:
    port, other = privileged_port(), privileged_port()
    async with RunningProxy(config(port), directory, started_by=_opened()) as proxy:
        rewrite(proxy, config(other))
        code, said = await reload(proxy)
        assert code != 0
        assert f"127.0.0.1:{other}: permission denied" in said
        assert "root at first" in said
        rewrite(proxy, config(port, user="daemon"))
        code, said = await reload(proxy)
        assert code != 0
        assert "user: is settled when the proxy starts: restart it" in said
        assert await answers(port)


async def test_a_file_that_could_not_be_written_is_named(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o755)
    listeners = [{"name": "web", "bind": f"unix:{closed}/web.sock"}]
    told = config(0, listeners=listeners, user="nobody:daemon")
    async with RunningProxy(told, directory, started_by=_opened()) as proxy:
        assert f'"path": "{closed}"' in proxy.log() or f'"path":"{closed}"' in proxy.log()
        assert "not_writable" in proxy.log()
        assert "listeners.web.bind" in proxy.log()
        assert ids(proxy.control)[1] == {1}


async def test_a_log_that_nobody_may_write_ends_the_start(directory: Path) -> None:
    log = directory / "access.log"
    told = config(privileged_port(), access_log={"path": str(log)})
    proxy = RunningProxy(told, directory, started_by=_opened())
    proxy.launch()
    assert await proxy.wait(30) == 1
    assert f"access_log: cannot open {log}: Permission denied" in proxy.log()
    assert not log.exists()
