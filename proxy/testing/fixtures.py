"""Fixtures for tests of plug-ins and of services behind the proxy, which are real processes and
sockets on loopback. pytest finds them by itself (docs/testing.md), in every environment that has
this distribution, so importing them must cost next to nothing.

They do not need an event loop, so tests may be functions or coroutines.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from proxy.testing.waiting import free_port

START_LIMIT = 30.0
"""Seconds in which a process must be ready, and one in which it must have ended."""
EVERY = 0.05
"""Seconds between two looks."""


class FairleadProcess:
    """Owns one `fairlead run`, its file and its log."""

    def __init__(self, config: Mapping[str, Any], directory: Path) -> None:
        """`config`: as `proxy.yaml` has it; listener, admin address and workers (1) are filled
        in."""
        ports = free_port(), free_port()
        self.url, self.admin = (f"http://127.0.0.1:{port}" for port in ports)
        self.log = directory / f"fairlead-{ports[0]}.log"
        self._file = directory / f"fairlead-{ports[0]}.yaml"
        whole = {
            "listeners": [{"name": "web", "bind": f"127.0.0.1:{ports[0]}"}],
            "admin": {"bind": f"127.0.0.1:{ports[1]}"},
            "workers": 1,
            "registry": {"type": "static"},
            **config,
        }
        self._file.write_text(json.dumps(whole, indent=1))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready. AssertionError with its log if it ends, or takes too long."""
        # What this process can import, a plug-in among it, that one can, too.
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "proxy", "run", "-c", str(self._file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT
        while self.status("/readyz") != 200:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not ready\n{self.log.read_text()}")
            time.sleep(EVERY)

    def status(self, path: str) -> int | None:
        """Status of a GET on the admin server; None when it does not answer."""
        try:
            with urllib.request.urlopen(self.admin + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def stop(self) -> None:
        """End it gently, or else at once."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def fairlead_proxy(tmp_path: Path) -> Iterator[Callable[[Mapping[str, Any]], FairleadProcess]]:
    """Function that starts a proxy with a configuration; all of them end with the test."""
    with ExitStack() as stack:

        def start(config: Mapping[str, Any]) -> FairleadProcess:
            proxy = FairleadProcess(config, tmp_path)
            stack.callback(proxy.stop)
            proxy.start()
            return proxy

        yield start


@pytest.fixture
def fairlead_etcd() -> Iterator[str]:
    """URL of an empty etcd, which ends with the test. Needs the extra `demo`."""
    from proxy.embedded_etcd import EmbeddedEtcd  # aiohttp comes with it

    etcd = EmbeddedEtcd()
    with _loop() as run:
        run(etcd.start())
        try:
            yield etcd.url
        finally:
            run(etcd.stop())


@contextmanager
def _loop() -> Iterator[Callable[[Any], object]]:
    """Function that runs coroutines one after the other in a loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(4 * START_LIMIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def fairlead_instance() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Function that starts an HTTP server, which answers every GET with the name it is given; its
    `address` and `port`, as `instances:` has them."""
    with ExitStack() as stack:

        def start(name: str) -> dict[str, Any]:
            class Answer(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_GET(self) -> None:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(name.encode())))
                    self.end_headers()
                    self.wfile.write(name.encode())

                def log_message(self, *_: Any) -> None:
                    """Say nothing: pytest has its own log."""

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Answer))
            server.daemon_threads = True
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": EVERY})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return {"address": "127.0.0.1", "port": server.server_address[1]}

        yield start
