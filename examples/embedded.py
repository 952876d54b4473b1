"""A program with the proxy in it: an aiohttp application whose own pages stand beside the proxy's
dashboard, and a service behind the proxy that lives in the same loop.

    python examples/embedded.py          # needs fairlead-proxy alone
    curl http://127.0.0.1:8080/hello     # by way of the proxy
    open http://127.0.0.1:8090/proxy/    # the dashboard
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from proxy.embed import Proxy


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello, {request.headers['X-Forwarded-For']}\n")


async def serve(app: web.Application, port: int) -> tuple[web.AppRunner, int]:
    """Serve an application on loopback; its port."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, runner.addresses[0][1]


async def main(port: int = 8080, own_port: int = 8090) -> None:
    service = web.Application()
    service.router.add_get("/hello", hello)
    runner, service_port = await serve(service, 0)
    settings = {
        "listeners": [{"name": "web", "bind": f"127.0.0.1:{port}"}],
        "registry": {"type": "static"},
        "services": {"greeter": f"http://127.0.0.1:{service_port}"},
        "routes": [{"path_prefix": "/", "service": "greeter"}],
    }
    async with Proxy(settings) as proxy:
        own = web.Application()
        own.add_subapp("/proxy", proxy.admin_app())
        own_runner, own_port = await serve(own, own_port)
        urls = f"http://{proxy.addresses['web']}/hello http://127.0.0.1:{own_port}/proxy/"
        sys.stdout.write(f"{urls}\n")
        sys.stdout.flush()
        try:
            await proxy.failed()
        finally:
            await own_runner.cleanup()
    await runner.cleanup()


if __name__ == "__main__":
    try:
        asyncio.run(main(*map(int, sys.argv[1:])))
    except KeyboardInterrupt:
        pass
