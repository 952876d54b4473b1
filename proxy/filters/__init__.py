"""Filters: code that looks at requests on their way, changes or answers them, and looks at what
becomes of them.

    class Stamp(Filter):
        def on_request(self, request: Request) -> None:
            request.headers.set("X-Stamp", "1")

A class of yours is used as `{"mypackage.filters:Stamp": {}}`; docs/filters.md says the rest.
"""

from proxy.filters.base import Context, Filter
from proxy.filters.message import Headers, Request, Response

__all__ = ["Context", "Filter", "Headers", "Request", "Response"]
