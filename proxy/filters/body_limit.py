"""`body_limit`: how long the body of a request may be."""

from __future__ import annotations

from typing import Annotated, ClassVar

from proxy.errors import BODY_TOO_LARGE, Refused
from proxy.filters.base import Filter, FilterOptions
from proxy.filters.message import Request
from proxy.settings.read import size


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `body_limit`."""

    size: Annotated[
        int,
        size(0, 2**50),
        "Bytes of the longest body. The listener's `limits.body` holds beside it.",
    ]


class BodyLimit(Filter):
    """Refusal of requests whose body is too long."""

    options: ClassVar[type[FilterOptions] | None] = Options
    short: ClassVar[str] = "size"
    meaning: ClassVar[str] = "The longest body of a request; beyond it 413."

    def __init__(self, options: Options) -> None:
        self._size = options.size

    def on_request(self, request: Request) -> None:
        """See `Filter`. Before any of the body, if its length is known."""
        if request.content_length is None:
            request.transform(Counter(self._size).count, keeps_length=True)
        elif request.content_length > self._size:
            raise _refusal(self._size)


class Counter:
    """Owns how much more one body may have."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def count(self, data: bytes, last: bool) -> bytes:
        """The content as it is. Raises `Refused`."""
        self._left -= len(data)
        if self._left < 0:
            raise _refusal(self._size)
        return data


def _refusal(size: int) -> Refused:
    return Refused(BODY_TOO_LARGE, f"the body is longer than {size} bytes")
