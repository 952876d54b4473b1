"""One scalar of proxy.yaml → one value, or in plain words what is wrong and what is allowed.

A `Read` is one kind of scalar; it stands in the annotation of each key that takes one
(`declare.py`). What a kind looks like in JSON Schema is said beside it, so that editors and
`fairlead check` agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Generic, TypeVar

from proxy.settings.tree import Scalar

T = TypeVar("T")


def escaped(text: str) -> str:
    """The text of a file, fit for a terminal and for one line: what cannot be printed as Python
    writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """A value as an error message quotes it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    assert isinstance(value, Scalar)
    text = value.text if len(value.text) <= 60 else value.text[:57] + "..."
    quoted = f'"{escaped(text)}"'
    if value.written is not None:
        return f"{quoted} (from {value.written})"
    return quoted


def did_you_mean(word: str, known: Collection[str]) -> str:
    """` (did you mean "…"?)`, or nothing when no known word is near."""
    by_lower = {name.lower(): name for name in known}
    from difflib import get_close_matches  # Only where something is wrong.

    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    near = near or [name for name in by_lower if name.startswith(f"{word.lower()}_")]
    return f' (did you mean "{by_lower[near[0]]}"?)' if near else ""


class Unspeakable(ValueError):
    """An error in a value that holds a secret, although its key does not say so."""


_AS_WRITTEN: Final = {"type": ["string", "number", "boolean"]}
"""Text without quotes may be a number to YAML."""
_JSON: Final[Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys(("text", "name", "mode", "owner", "status codes", "key prefix"), _AS_WRITTEN),
    "path": {"type": "string", "pattern": "^/"},
    "path prefix": {"type": "string", "pattern": "^/"},
    "URL": {"type": "string", "pattern": "^[A-Za-z]+://"},
    "bind": {"type": "string", "pattern": "^unix:/|:[0-9]+$"},
    "network": {"type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]+)?$"},
}
"""JSON Schema of kinds that say no other."""


class Read(Generic[T]):
    """How one kind of scalar is read.

    `parse` gets the text and raises `ValueError("is not …")`, continuing a sentence that
    begins with the value. `kind` is the kind's name in docs/configuration.md.
    """

    def __init__(
        self,
        parse: Callable[[str], T],
        kind: str,
        allowed: str,
        *,
        literal: bool = False,
        secret: bool = False,
        json: Mapping[str, Any] | None = None,
    ) -> None:
        """`literal`: not in quotes; `secret`: never quoted in a message."""
        self._parse = parse
        self.kind = kind
        self.allowed = allowed
        self._literal = literal
        self.secret = secret
        self._json: Mapping[str, Any] = json or _JSON.get(kind, {"type": "string"})

    @property
    def json(self) -> Mapping[str, Any]:
        """JSON Schema of the kind."""
        return self._json

    def __call__(self, value: object) -> T:
        """Raises `ValueError` with the whole complaint."""
        if not isinstance(value, Scalar):
            raise ValueError(f"is {shown(value)}; allowed: {self.allowed}")
        if value.empty:
            raise ValueError(f"is empty; allowed: {self.allowed}, or leave the key out")
        subject = "the value" if self.secret else shown(value)
        if self._literal and not value.literal:
            raise ValueError(f"{subject} is text; allowed: {self.allowed}, without quotes")
        try:
            return self._parse(value.text)
        except ValueError as error:
            if isinstance(error, Unspeakable):
                subject = "the value"
            raise ValueError(f"{subject} {error}; allowed: {self.allowed}") from None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_YEAR = 8760 * 3600.0

_FACTORS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"([0-9]{1,15})(B|[KMG]i?B)?")

_DURATIONS: Final = {
    "anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$|^0$"}, {"const": 0}]
}
_SIZES: Final = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]+(B|[KMG]i?B)?$"},
        {"type": "integer", "minimum": 0},
    ]
}

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?")


def parse_duration(text: str) -> float:
    """`250ms`, `3s`, `1.5m`, `1h` → seconds. Only 0 may go without a unit."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("is not a duration")
    if match[2] is None:
        if float(match[1]) != 0:
            raise ValueError("has no unit")
        return 0.0
    # Milliseconds are divided, not multiplied: 3 / 1000 is the float nearest to 3 ms.
    seconds = float(match[1]) / 1000 if match[2] == "ms" else float(match[1]) * _UNITS[match[2]]
    if seconds > _YEAR:
        raise ValueError("is longer than a year")
    return seconds


def parse_size(text: str) -> int:
    """`64KiB`, `10MiB`, `1000` → bytes. Ki, Mi, Gi are powers of 1024; K, M, G of 1000."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("is not a size")
    return int(match[1]) * _FACTORS[match[2] or "B"]


def duration(low: float = 0.0, zero: str = "") -> Read[float]:
    """`zero`: what 0 means, when it means something else than "at once"."""
    allowed = "a duration such as 250ms, 3s, 2m or 1h"
    allowed += f" ({zero})" if zero else ""
    allowed += ", more than 0" if low else ""

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if seconds < low:
            raise ValueError("is too short")
        return seconds

    return Read(parse, "duration", allowed, json=_DURATIONS)


def size(low: int, high: int, zero: str = "") -> Read[int]:
    allowed = f"a size from {low} to {high} bytes, such as 64KiB or 10MiB"
    allowed += f" ({zero})" if zero else ""

    def parse(text: str) -> int:
        value = parse_size(text)
        if not low <= value <= high:
            raise ValueError("is out of range")
        return value

    return Read(parse, "size", allowed, json=_SIZES)


def integer(low: int, high: int, zero: str = "") -> Read[int]:
    allowed = f"a whole number from {low} to {high}" + (f" ({zero})" if zero else "")

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError("is not a whole number")
        if not low <= int(text) <= high:
            raise ValueError("is out of range")
        return int(text)

    json = {"type": "integer", "minimum": low, "maximum": high}
    return Read(parse, "integer", allowed, literal=True, json=json)


def number(low: float, high: float) -> Read[float]:
    def parse(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise ValueError("is not a number")
        if not low <= float(text) <= high:
            raise ValueError("is out of range")
        return float(text)

    json = {"type": "number", "minimum": low, "maximum": high}
    return Read(parse, "number", f"a number from {low:g} to {high:g}", literal=True, json=json)


def parameter(
    whole: bool, default: int | float, limits: tuple[float, float] | None
) -> Read[int | float]:
    """A balancer's parameter. Its default is allowed even outside of its limits."""
    low, high = limits or (0, 2**31)
    allowed = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
    if math.isinf(high):
        allowed = f"{'a whole number' if whole else 'a number'} of at least {low:g}"
    if not low <= default <= high:
        allowed = f"{default:g}, or {allowed}"

    def parse(text: str) -> int | float:
        if not (_INTEGER if whole else _NUMBER).fullmatch(text):
            raise ValueError("is not a whole number" if whole else "is not a number")
        value = int(text) if whole else float(text)
        if value != default and not low <= value <= high:
            raise ValueError("is out of range")
        return value

    kind = "integer" if whole else "number"
    return Read(parse, kind, allowed, literal=True, json={"type": kind})


def choice(names: Collection[str], noun: str) -> Read[str]:
    """A reader of one of a closed list of words; `noun`: what they are, with its article."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is not {noun}{did_you_mean(text, names)}")
        return text

    numbers = [float(name) for name in names if _NUMBER.fullmatch(name)]
    return Read(parse, "word", ", ".join(names), json={"enum": [*names, *numbers]})


def parse_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def parse_switch(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError("is not a switch") from None


DURATION: Final = duration()
POSITIVE: Final = duration(0.001)
UNLIMITED: Final = duration(zero="0 = no limit")
SWITCH: Final = Read(
    parse_switch, "boolean", "true or false", literal=True, json={"type": "boolean"}
)
TEXT: Final = Read(parse_text, "text", "text")
FILE: Final = Read(parse_text, "text", "text")
"""The name of a file, which the writer of a shared configuration may not give."""
SECRET: Final = Read(parse_text, "text", "printable text", secret=True)
SHARE: Final = number(0, 1)
