"""`RunningProxy`: the real `fairlead run` as a process of its own, for end-to-end tests.

    async with RunningProxy({"routes": [...]}, tmp_path) as proxy:
        async with session.get(proxy.url + "/users/1") as answer: ...
        os.kill((await proxy.worker_pids())[0], signal.SIGKILL)

The configuration is that of `proxy.yaml` as a dict; listeners, admin address, workers (1),
registry (static) and a short `shutdown` are filled in where the test does not say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.support.processes import AwaitedProcess, children, eventually, free_port


class RunningProxy(AwaitedProcess):
    """Owns one `fairlead run` process, its configuration file and its log file."""

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        environ: Mapping[str, str] | None = None,
        open_files: int | None = None,
        stderr: int | None = None,
        started_by: Sequence[str] = (),
    ) -> None:
        """`directory` takes the files (pytest's `tmp_path`); `environ` is added to this
        process's environment; `open_files` is the limit on descriptors, soft and hard; `stderr`
        is what it logs to in place of the file, -1 = it begins with 0, 1 and 2 closed;
        `started_by` is a command that is given ours."""
        self.port = free_port()
        self.admin_port = free_port()
        self.config: dict[str, Any] = {
            "listeners": [{"name": "web", "bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self.admin_port}"},
            "workers": 1,
            "registry": {"type": "static"},
            "shutdown": {"delay": "0s", "grace": "10s"},
            **config,
        }
        self.file = directory / f"proxy-{self.port}.yaml"
        # JSON is YAML, so no YAML writer is needed.
        self.file.write_text(json.dumps(self.config, indent=1))
        command = [sys.executable, "-m", "proxy", "run", "-c", str(self.file)]
        if open_files is not None:
            limited = f'ulimit -n {open_files}; exec "$@"'
            command = ["/bin/sh", "-c", limited, "sh", *command]
        if stderr == -1:
            stderr = None
            command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        log_file = directory / f"proxy-{self.port}.log"
        super().__init__([*started_by, *command], log_file, environ)
        self._stderr = stderr

    @property
    def url(self) -> str:
        """Base URL of the default listener, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """Base URL of the admin server, without a slash at the end."""
        return f"http://127.0.0.1:{self.admin_port}"

    def launch(self, **options: Any) -> None:
        super().launch(**({} if self._stderr is None else {"stderr": self._stderr}), **options)

    async def start(self, within: float = 30.0) -> Self:
        """Start it and wait until /readyz answers 200. AssertionError with the log if it
        exits before, or does not become ready `within` seconds."""
        self.launch()
        try:
            await eventually(self._ready_or_gone, within, "ready")
        except AssertionError as late:
            await self.kill()
            raise AssertionError(f"{late}\n{self.log()}") from None
        if self.returncode is not None:
            raise AssertionError(f"exited with {self.returncode}\n{self.log()}")
        return self

    async def _ready_or_gone(self) -> bool:
        return self.returncode is not None or await self.readyz() == 200

    async def readyz(self) -> int | None:
        """Status of /readyz; None when the admin server does not answer."""
        try:
            status, _ = await self.get("/readyz")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        return status

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """GET on the admin server: status and body, decoded if it is JSON."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self.admin + path, headers=headers) as answer,
        ):
            if answer.content_type.endswith("json"):
                return answer.status, await answer.json(content_type=None)
            return answer.status, await answer.text()

    async def workers(self) -> list[dict[str, Any]]:
        """The rows of /api/v1/workers."""
        status, body = await self.get("/api/v1/workers")
        assert status == 200, body
        rows: list[dict[str, Any]] = body["workers"]
        return rows

    async def worker_pids(self) -> list[int]:
        """Process ids of the workers, by index; those being replaced are left out."""
        return [row["pid"] for row in await self.workers() if row["pid"] is not None]

    @property
    def control(self) -> int:
        """Process id of the control process; the last one that was started."""
        return children(self.pid)[-1]

    def children(self) -> list[int]:
        """Process ids of the control process's children in ascending order, zombies included."""
        return children(self.control)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if self._process is not None:
                await self.stop()
        finally:
            await self.kill()
            if error is not None:
                sys.stderr.write(self.log())
