"""`Beside`: a real `fairlead sidecar` as a process, and the files by which it proves who it is."""

from __future__ import annotations

import json
import shutil
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.e2e.certificates import Authority
from tests.support.processes import AwaitedProcess, eventually, free_port

DOMAIN = "mesh.local"
PATIENCE = 90.0
"""Seconds until a side-car is there; it takes one or two, and many on a machine with much to do."""


def identify(directory: Path, authority: Authority, *names: str, **options: Any) -> Path:
    """Put a certificate for these names into a side-car's directory, one file after the other as
    tools do. `options`: of `Authority.issue`."""
    directory.mkdir(exist_ok=True)
    cert, key = authority.issue(*names, stem=f"issued-{directory.name}", **options)
    shutil.move(cert, directory / "tls.crt")
    shutil.move(key, directory / "tls.key")
    if not (directory / "ca.crt").exists():
        shutil.copy(authority.ca, directory / "ca.crt")
    return directory


class Beside(AwaitedProcess):
    """Owns one `fairlead sidecar`, its identity and its log."""

    def __init__(
        self,
        service: str,
        port: int,
        directory: Path,
        authority: Authority,
        etcd: str,
        *options: str,
        command: Sequence[str] = (),
        names: Sequence[str] = (),
        under: Sequence[str] = (),
        admin_tls: ssl.SSLContext | None = None,
        **issue: Any,
    ) -> None:
        """`port`: the program's; `names`: of the certificate, in place of the service's; `under`: a
        command that is given ours; `admin_tls`: how the admin server is asked, where its file has
        it speak TLS; `issue`: more of what the certificate has."""
        self.service = service
        self.inbound, self.outbound, self.admin_port = (free_port() for _ in range(3))
        self.id = f"{service}-{self.inbound}"
        self._admin_tls = admin_tls
        self.identity = directory / f"{self.id}-identity"
        identify(self.identity, authority, *(names or [f"{service}.{DOMAIN}"]), **issue)
        words = [
            *under,
            *(sys.executable, "-m", "proxy", "sidecar"),
            *("--service", service, "--port", str(port), "--id", self.id),
            *("--inbound", f"127.0.0.1:{self.inbound}"),
            *("--outbound", f"127.0.0.1:{self.outbound}"),
            *("--admin", f"127.0.0.1:{self.admin_port}"),
            *("--identity", str(self.identity), "--trust-domain", DOMAIN),
            *("--endpoints", etcd, "--ttl", "3s", "--interval", "500ms"),
            *options,
            *(("--", *command) if command else ()),
        ]
        log_file = directory / f"{self.id}.log"
        super().__init__(words, log_file, {"PYTHONUNBUFFERED": "1"}, directory)

    def run_in(self, directory: Path, command: Sequence[str]) -> None:
        """Have it run a command, in a directory, that has to know its ports."""
        self._command += ["--", *command]
        self._directory = directory

    async def started(self) -> Self:
        """Start it, and wait until the registry has it and it knows of the registry."""
        self.launch()
        await self.there()
        return self

    async def there(self) -> None:
        """Wait until the registry has it and it knows of the registry."""
        await eventually(self._there, PATIENCE, self.log)
        if self.returncode is not None:
            raise AssertionError(f"exited with {self.returncode}\n{self.log()}")

    async def _there(self) -> bool:
        if self.returncode is not None:
            return True
        try:
            ready = (await self.ask_admin("/readyz"))[0] == 200
        except (aiohttp.ClientError, OSError):
            return False
        return ready and '"event": "registered"' in self.log()

    async def answers(self) -> bool:
        """Whether its program reaches its own service: out by it, under TLS, and in again."""
        url = f"http://127.0.0.1:{self.outbound}/"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers={"Host": self.service}) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def ask_admin(self, path: str) -> tuple[int, str]:
        """Status and text of a GET on the admin server."""
        place = "http://127.0.0.1" if self._admin_tls is None else "https://localhost"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"{place}:{self.admin_port}{path}", ssl=self._admin_tls or True) as answer,
        ):
            return answer.status, await answer.text()

    async def knows(self, service: str, ready: int = 1) -> None:
        """Wait until it has so many instances of a service that are ready."""

        async def known() -> bool:
            status, text = await self.ask_admin(f"/api/v1/services/{service}")
            rows = json.loads(text)["instances"] if status == 200 else []
            return [row["status"] for row in rows].count("ready") >= ready

        await eventually(known, what=lambda: f"{service} is not known\n{self.log()}")

    async def __aenter__(self) -> Self:
        return await self.started()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
