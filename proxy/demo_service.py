"""One instance of a sample service, for `fairlead demo`: answers, and registers itself.

It does what any service does that lives with the registry: a lease, a record under it, a
keep-alive every third of its time to live, a new lease when the old one was lost, and its
removal at the end. It ends with SIGTERM, or when its standard input does, so it cannot outlive
whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

TTL = 10
"""Seconds for which the registry remembers an instance that was killed."""

CALL_LIMIT = 3.0
"""Seconds for one call to the registry; shorter than a keep-alive interval."""


class Registration:
    """Owns the lease of one record in etcd."""

    def __init__(
        self, session: aiohttp.ClientSession, etcd: str, record: dict[str, Any], ttl: int = TTL
    ) -> None:
        self._session = session
        self._etcd = etcd.rstrip("/")
        self._key = f"/services/{record['name']}/{record['id']}"
        self._value = json.dumps(record)
        self._ttl = ttl
        self._lease: str | None = None

    async def keep(self) -> None:
        """Stay registered until cancelled. An etcd that does not answer is asked again."""
        while True:
            try:
                if self._lease is None:
                    await self._register()
                elif not await self._renew():
                    self._lease = None
                    continue
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                print(f"{self._key}: {error or type(error).__name__}", file=sys.stderr)  # noqa: T201
            await asyncio.sleep(self._ttl / 3)

    async def leave(self) -> None:
        """Deregister at once, without waiting for the lease to run out."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            try:
                await self._call("/v3/lease/revoke", {"ID": lease})
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # etcd is gone already, or the lease runs out by itself.

    async def _register(self) -> None:
        lease = (await self._call("/v3/lease/grant", {"TTL": self._ttl}))["ID"]
        await self._call(
            "/v3/kv/put",
            {"key": _base64(self._key), "value": _base64(self._value), "lease": lease},
        )
        self._lease = lease

    async def _renew(self) -> bool:
        """False: the lease is lost, which etcd says by an answer without a time to live."""
        answer = await self._call("/v3/lease/keepalive", {"ID": self._lease})
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(self._etcd + path, json=body) as answer:
            answer.raise_for_status()
            document: dict[str, Any] = await answer.json(content_type=None)
            return document


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def run(service: str, instance: str, weight: int, etcd: str) -> None:
    """Serve on a free loopback port and stay registered until SIGTERM or the end of input."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "service": service,
                "instance": instance,
                "method": request.method,
                "path": request.path_qs,
                "host": request.host,
                "forwarded_for": request.headers.get("X-Forwarded-For"),
            }
        )

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), _end_with_input, stop)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        record = {
            "id": instance,
            "name": service,
            "version": "1.0.0",
            "address": host,
            "port": port,
            "metadata": {"weight": str(weight), "pid": str(os.getpid())},
            "health": {"status": "healthy"},
            "register_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        limit = aiohttp.ClientTimeout(total=CALL_LIMIT)
        async with aiohttp.ClientSession(timeout=limit) as session:
            registration = Registration(session, etcd, record)
            keeping = asyncio.create_task(registration.keep())
            try:
                await stop.wait()
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await registration.leave()
    finally:
        loop.remove_reader(sys.stdin.fileno())
        await runner.cleanup()


def _end_with_input(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        stop.set()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the sample service's process."""
    parser = argparse.ArgumentParser(prog="python -m proxy.demo_service")
    for name in ("--service", "--id", "--etcd"):
        parser.add_argument(name, required=True)
    parser.add_argument("--weight", type=int, default=1)
    options = parser.parse_args(argv)
    asyncio.run(run(options.service, options.id, options.weight, options.etcd))


if __name__ == "__main__":
    main()
