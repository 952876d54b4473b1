"""`headers`: fields set, added and removed, on the way to the instance and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

import msgspec

from proxy.filters.base import Filter, FilterOptions
from proxy.filters.message import Edit, Headers, Request, Response, problem_of_name
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import Read


def _parse_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("is not printable ASCII")
    return text.strip()


VALUE: Final = Read(_parse_value, "text", "the value of the field")


def name_read(of_requests: bool) -> Read[str]:
    """How the name of a field that filters may set is read."""

    def parse(text: str) -> str:
        if problem := problem_of_name(text, of_requests):
            raise ValueError(problem)
        return text

    return Read(parse, "name", "the name of a field")


_OF_REQUEST: Final = name_read(True)
_OF_RESPONSE: Final = name_read(False)


class RequestFields(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the fields of a request."""

    set: Annotated[dict[str, str], VALUE, "Fields that it has in place of its own."] = {}
    add: Annotated[dict[str, str], VALUE, "Fields that it has beside its own."] = {}
    remove: Annotated[
        tuple[str, ...], _OF_REQUEST, "Names of fields that are taken away, before others are set."
    ] = ()


class ResponseFields(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the fields of an answer."""

    set: Annotated[dict[str, str], VALUE, "Fields that it has in place of its own."] = {}
    add: Annotated[dict[str, str], VALUE, "Fields that it has beside its own."] = {}
    remove: Annotated[
        tuple[str, ...], _OF_RESPONSE, "Names of fields that are taken away, before others are set."
    ] = ()


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `headers`."""

    request: Annotated[RequestFields, "On the way to the instance."] = RequestFields()
    response: Annotated[
        ResponseFields, "On the way to the client, on the proxy's own answers, too."
    ] = ResponseFields()

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        for side, of_requests in (("request", True), ("response", False)):
            section = given.get(side)
            for key in ("set", "add") if section is not None else ():
                for name in section.get(key) or {}:
                    if problem := problem_of_name(name, of_requests):
                        message = f'"{name}" {problem}; allowed: another field'
                        report.complain(section.at(key, name), message)
        return self


class SetHeaders(Filter):
    """Fields of requests and answers as the file says."""

    options: ClassVar[type[FilterOptions] | None] = Options
    meaning: ClassVar[str] = "Set, add and remove fields of requests and answers."

    def __init__(self, options: Options) -> None:
        self._request = _edits(options.request, True)
        self._response = _edits(options.response, False)
        self.request_edit = Edit(lambda headers: headers.edit(self._request))
        self._response_edit = Edit(lambda headers: headers.edit(self._response))

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return True

    def response_edit(self, request: RequestHead) -> Edit | None:
        """See `Filter`."""
        return self._response_edit

    def on_request(self, request: Request) -> None:
        """See `Filter`."""
        request.headers.edit(self._request)

    def on_response(self, request: Request, response: Response) -> None:
        """See `Filter`."""
        response.headers.edit(self._response)


def _edits(wanted: RequestFields | ResponseFields, of_requests: bool) -> Headers:
    headers = Headers(b"", None, of_requests)
    for name in wanted.remove:  # ≤ 1000
        headers.remove(name)
    for name, value in wanted.set.items():  # ≤ 1000
        headers.set(name, value)
    for name, value in wanted.add.items():  # ≤ 1000
        headers.add(name, value)
    return headers
