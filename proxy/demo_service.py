"""One instance of a sample service, for `fairlead demo`: answers, and registers itself.

It registers the way any Python service can, with `proxy.register`. It ends with SIGTERM, or when
its standard input does, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from aiohttp import web

from proxy import log
from proxy.register import Record, Registrar


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
        record = Record(
            service=service,
            id=instance,
            version="1.0.0",
            address=host,
            port=port,
            metadata={"weight": str(weight), "pid": str(os.getpid())},
        )
        async with Registrar(record, endpoints=[etcd], start_limit=0):
            await stop.wait()
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
    # Trouble only: twelve lines about leases would bury what the demo has to say.
    settings = log.from_environment({log.LEVEL_VARIABLE: "warning", **os.environ})
    log.set_up(settings, service=options.service, instance=options.id)
    asyncio.run(run(options.service, options.id, options.weight, options.etcd))


if __name__ == "__main__":
    main()
