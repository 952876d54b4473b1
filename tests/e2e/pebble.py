"""`Pebble`: Let's Encrypt's small ACME server, the real one, on loopback.

    async with Pebble(tmp_path, http=proxy_port) as pebble:
        settings = pebble.acme("www.example.test", storage=tmp_path / "acme")
        pebble.dns.says("www.example.test", "127.0.0.1")

Built with Go once, and kept in the user's cache. Where there is no Go, or its modules cannot be
had, tests that need it are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

from tests.e2e.certificates import Authority
from tests.e2e.programs import Program, need
from tests.e2e.scripted_dns import ScriptedDns
from tests.support.processes import free_port

VERSION = "v2.10.3"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairlead-tests"
KID, HMAC_KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def binary() -> Path:
    """The program. Skips the test if there is none and none can be built."""
    program = CACHE / f"pebble-{VERSION}"
    if program.exists():
        return program
    go = need("go" if shutil.which("go") else "/usr/local/go/bin/go")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        module = f"github.com/letsencrypt/pebble/v2/cmd/pebble@{VERSION}"
        environ = {**os.environ, "GOBIN": directory}
        try:
            subprocess.run(
                [go, "install", module], env=environ, timeout=100, check=True, capture_output=True
            )
        except (OSError, subprocess.SubprocessError):
            pytest.skip("Pebble cannot be built: no modules of Go")
        # Another test may have built it meanwhile: it is the same.
        (Path(directory) / "pebble").rename(program)
    return program


class Pebble(Program):
    """Owns the server, its configuration, and the DNS that it asks."""

    def __init__(
        self, directory: Path, *, http: int, tls: int = 1, life: int = 7_776_000, eab: bool = False
    ) -> None:
        """`http`, `tls`: ports on which it looks whether names lead to us; `life`: of its
        certificates, in seconds; `eab`: it knows `KID` only."""
        self._authority = Authority(directory, "pebble")
        cert, key = self._authority.issue("127.0.0.1")
        self._management = free_port()
        self.dns = ScriptedDns()
        self._file = directory / "pebble.json"
        port = free_port()
        config = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(cert),
            "privateKey": str(key),
            "httpPort": http,
            "tlsPort": tls,
            "externalAccountBindingRequired": eab,
            "externalAccountMACKeys": {KID: HMAC_KEY} if eab else {},
            "domainBlocklist": ["blocked.test"],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {"default": {"description": "the only one", "validityPeriod": life}},
        }
        self._file.write_text(json.dumps({"pebble": config}))
        environ = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "5"}
        super().__init__([], port, directory / "pebble.log", environ)

    def acme(self, *domains: str, storage: Path, **more: Any) -> dict[str, Any]:
        """Settings that obtain certificates from it."""
        return {
            "directory": f"https://127.0.0.1:{self.port}/dir",
            "ca": str(self._authority.ca),
            "domains": [*domains],
            "storage": {"path": str(storage)},
            **more,
        }

    async def root(self) -> ssl.SSLContext:
        """A context that trusts what it issues."""
        url = f"https://127.0.0.1:{self._management}/roots/0"
        ours = ssl.create_default_context(cafile=str(self._authority.ca))
        async with aiohttp.ClientSession() as session, session.get(url, ssl=ours) as answer:
            return ssl.create_default_context(cadata=await answer.text())

    async def __aenter__(self) -> Self:
        program = binary()
        await self.dns.__aenter__()
        self._command[:] = [
            str(program), "-config", str(self._file), "-dnsserver", self.dns.address,
        ]  # fmt: skip
        try:
            return await super().__aenter__()
        except BaseException:
            await self.dns.__aexit__()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, at)
        await self.dns.__aexit__()
