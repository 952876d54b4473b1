"""`maintenance` and `error_pages`: files in place of what the proxy or an instance would say."""

from __future__ import annotations

from math import ceil
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec

from proxy.filters.base import Context, Filter, FilterOptions
from proxy.filters.message import Request, Response
from proxy.filters.networks import Networks
from proxy.filters.watched import WatchedFile, resolved_file
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead
from proxy.settings.addresses import CIDR
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import DURATION, TEXT, integer


class Page:
    """Owns a page that is in a file, if it has one."""

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, bytes) if path else None
        kind, coding = guess_type(path)
        kind = "application/octet-stream" if coding or not kind else kind
        self.type = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        """Media type of the page."""

    def open(self, context: Context) -> None:
        """Read it, and follow its changes."""
        if self._file is not None:
            self._file.open(context)

    def close(self) -> None:
        """Follow it no more."""
        if self._file is not None:
            self._file.close()

    @property
    def content(self) -> bytes | None:
        """The page; None as long as it could not be read."""
        return None if self._file is None else self._file.value


class Paged(Filter):
    """A filter that answers with a page."""

    _page: Page

    def open(self, context: Context) -> None:
        """See `Filter`."""
        self._page.open(context)

    def close(self) -> None:
        """See `Filter`."""
        self._page.close()


class MaintenanceOptions(FilterOptions, frozen=True, kw_only=True):
    """The keys of `maintenance`."""

    file: Annotated[
        str, TEXT, "The page, such as `back-at-noon.html`; without it a line of text."
    ] = ""
    allow: Annotated[
        tuple[str, ...], CIDR, Distinct(), "Networks whose clients go on as if nothing were."
    ] = ()
    retry_after: Annotated[float, DURATION, "Time that clients are told to wait; 0 = none."] = 0.0

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        if not self.file:
            return self
        path = resolved_file(self.file, given.at("file"), directory, report)
        return msgspec.structs.replace(self, file=path)


class Maintenance(Paged):
    """A page for everybody but some."""

    options: ClassVar[type[FilterOptions] | None] = MaintenanceOptions
    meaning: ClassVar[str] = "503 and a page for everybody but clients in some networks."

    def __init__(self, options: MaintenanceOptions) -> None:
        self._page = Page(options.file)
        self._allowed = Networks(options.allow)
        self._headers = {"Cache-Control": "no-store"}
        if options.retry_after:
            self._headers["Retry-After"] = str(ceil(options.retry_after))

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return facts.client(request.fields).decode("ascii") in self._allowed

    def on_request(self, request: Request) -> Response | None:
        """See `Filter`."""
        if request.client in self._allowed:
            return None
        content = self._page.content
        if content is None:
            return Response(503, "Down for maintenance", self._headers)
        return Response(503, content, {**self._headers, "Content-Type": self._page.type})


class ErrorPagesOptions(FilterOptions, frozen=True, kw_only=True):
    """The keys of `error_pages`."""

    statuses: Annotated[
        tuple[int, ...], integer(400, 599), Distinct(), "Statuses whose answers have the page."
    ] = (502, 503, 504)
    file: Annotated[str, TEXT, "The page, such as `sorry.html`."]

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        path = resolved_file(self.file, given.at("file"), directory, report)
        return msgspec.structs.replace(self, file=path)


class ErrorPages(Paged):
    """A page in place of the proxy's own words about a fault."""

    options: ClassVar[type[FilterOptions] | None] = ErrorPagesOptions
    meaning: ClassVar[str] = "A page in the proxy's own answers about faults; not in an instance's."

    def __init__(self, options: ErrorPagesOptions) -> None:
        self._page = Page(options.file)
        self._statuses = frozenset(options.statuses)

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return True

    def on_response(self, request: Request, response: Response) -> None:
        """See `Filter`. Status and other fields stay; without the page all does."""
        content = self._page.content
        if (
            response.fault is not None
            and response.status in self._statuses
            and content is not None
            and not request.is_call
        ):
            response.content = content
            response.headers.set("Content-Type", self._page.type)
