"""The admin server's answers as an application of aiohttp, for programs that embed the proxy."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web
from yarl import URL

from proxy.control.admin import Admin


def admin_app(admin: Admin, may_change: bool) -> web.Application:
    """See `Proxy.admin_app`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        # The names of the program's server are its own affair, and so is who may reach it.
        access = replace(admin.front.access, hosts=("*",), local=may_change)
        assert request.match_info.route.resource is not None
        slashes = request.match_info.route.resource.canonical.count("/")
        tail = request.rel_url.raw_path.split("/", slashes)[-1]
        query = request.rel_url.raw_query_string
        url = URL.build(path=f"/{tail}", query_string=query, encoded=True)
        return await admin.answer(access, request.clone(rel_url=url))

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    return app
