"""The field that names a request: on what goes to an instance, and on every answer.

Who complains of an answer, and who reads the logs of the proxy and of the instance, mean the same
request by it. A client's own name is kept only in a form that means nothing to a shell, a
terminal, a log or a query, wherever it may be pasted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

USUAL: Final = b"x-request-id"
"""The name under which the parser's memory has it."""
_FORM: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")


def acceptable(values: list[bytes]) -> bytes | None:
    """The one value that a client has given, or None: several are no name, either."""
    return values[0] if len(values) == 1 and _FORM.fullmatch(values[0]) else None


class IdField:
    """How one listener names requests."""

    __slots__ = ("_bare", "lower", "new", "start", "usual")

    def __init__(self, name: str | None, new: Callable[[], bytes], bare: Callable[[], bytes]):
        """`name`: of the field; None = no such field is added, and a client's own is like any
        other. `new` makes a whole field line with a new id, `bare` the id alone."""
        self.start = b"" if name is None else name.encode("ascii") + b": "
        self.lower = self.start[:-2].lower()
        self.usual = self.lower == USUAL
        self.new = new
        """A field line with an id of our own; empty where there is no such field."""
        self._bare = bare

    def line(self, value: bytes) -> bytes:
        """The field line with a client's id."""
        return b"%b%b\r\n" % (self.start, value)

    def value(self, line: bytes) -> bytes:
        """The id in a field line of ours; where there is none, one that only logs have."""
        return line[len(self.start) : -2] if line else self._bare()

    def beside(self, names: frozenset[bytes]) -> frozenset[bytes]:
        """With the name of the field, in lower case: trailers name no request."""
        return names if self.usual else names | {self.lower}
