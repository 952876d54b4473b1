"""An aiohttp service that registers itself.

PORT=8081 ETCD=http://127.0.0.1:2379 python examples/aiohttp_service.py
"""

import asyncio
import os
import signal

from aiohttp import web

from proxy.register import Record, Registrar

PORT = int(os.environ.get("PORT", "8081"))
ETCD = os.environ.get("ETCD", "http://127.0.0.1:2379")
DRAIN_WAIT = float(os.environ.get("DRAIN_WAIT", "3"))


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello from aiohttp\n")


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, port=PORT).start()

    async with Registrar(Record(service="hello-aiohttp", port=PORT), endpoints=[ETCD]) as registrar:
        await stop.wait()
        # Still served, but no new requests; what is on its way arrives and is answered.
        await registrar.drain()
        await asyncio.sleep(DRAIN_WAIT)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
