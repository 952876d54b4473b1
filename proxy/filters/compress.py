"""`compress`: answers in fewer bytes, for clients that can read them (RFC 9110 §8.4, §12.5.3).

An answer is compressed as it passes, and each piece is written with an end of its own, so that
events and long answers come as they came before. What may not be changed is left alone: answers
that are encoded, partial, signed by a digest, or say `no-transform`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from proxy.filters.base import Filter, FilterOptions
from proxy.filters.content import Change
from proxy.filters.message import Headers, Request, Response, vary
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import Read, choice, size

_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+)")
_GZIP_LEVEL: Final = 5
_BROTLI_QUALITY: Final = 4
_ZSTD_LEVEL: Final = 3
"""Levels of the three, fast enough for a worker's loop: 50 to 400 MB a second and CPU."""
_WINDOW: Final = 18
"""Bits: 256 KiB of an answer are remembered, in about a megabyte for each that is under way."""
_MODULES: Final = {"zstd": "zstandard", "br": "brotli"}
_UNTOUCHABLE: Final = ("Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5")
_TAG: Final = re.compile(r'(?:W/)?"[^"]*"')
_WEIGHT: Final = re.compile(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def _parse_type(text: str) -> str:
    if not _TYPE.fullmatch(text.lower()):
        raise ValueError("is not a media type")
    return text.lower()


_TYPE_READ: Final = Read(_parse_type, "media type", "text/* or application/json")


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `compress`."""

    types: Annotated[
        tuple[str, ...], _TYPE_READ, Distinct(), "Media types of answers that are compressed."
    ] = ("text/*", "application/json", "application/javascript", "image/svg+xml")
    min_size: Annotated[
        int, size(0, 2**30), "Bytes of an answer from which on it is worth it, if they are known."
    ] = 1024
    encodings: Annotated[
        tuple[str, ...],
        choice(("zstd", "br", "gzip"), "an encoding"),
        Distinct(),
        "Encodings, the best first, of which the client's favourite is taken.",
    ] = ("zstd", "br", "gzip")

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        for name in self.encodings:
            if name in _MODULES and find_spec(_MODULES[name]) is None:
                report.complain(
                    given.at("encodings"),
                    f"needs {_MODULES[name]} for {name}; allowed: once fairlead-proxy[compress] is"
                    " installed, or gzip",
                )
        return self


class Compress(Filter):
    """Answers in an encoding that their clients accept."""

    options: ClassVar[type[FilterOptions] | None] = Options
    meaning: ClassVar[str] = "Compress answers for clients that accept it."

    def __init__(self, options: Options) -> None:
        self._types = frozenset(options.types)
        self._min_size = options.min_size
        self._encodings = options.encodings

    def on_response(self, request: Request, response: Response) -> None:
        """See `Filter`."""
        headers = response.headers
        if response.status == 304:
            _confirm(request, headers)
        if request.is_call or not self._may(request, response):
            return
        vary(headers, "Accept-Encoding")
        encoding = preferred(self._encodings, request.headers.get("Accept-Encoding"))
        if encoding is None:
            return
        headers.set("Content-Encoding", encoding)
        tag = headers.get("ETag")
        if tag is not None and not tag.startswith("W/"):
            headers.set("ETag", f"W/{tag}")  # The same content, in other bytes (§8.8.1).
        if "Accept-Ranges" in headers:
            headers.remove("Accept-Ranges")
        response.transform(_CODERS[encoding]())

    def _may(self, request: Request, response: Response) -> bool:
        """Whether the answer is one that is compressed for whoever accepts it."""
        headers = response.headers
        kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind not in self._types and f"{kind.partition('/')[0]}/*" not in self._types:
            return False
        if response.status in (204, 205, 206, 304) or (
            response.length is not None and response.length < self._min_size
        ):
            return False
        if (headers.get("Content-Encoding") or "identity").lower() != "identity":
            return False
        if any(name in headers for name in _UNTOUCHABLE):
            return False
        said = f"{headers.get('Cache-Control')},{request.headers.get('Cache-Control')}"
        return "no-transform" not in said.lower()


def _confirm(request: Request, headers: Headers) -> None:
    """Have the tag of a 304 be that of the answer which the client keeps: the weak one, if it has
    that one alone of us. A strong one would be another answer's, or make that one pass for the
    instance's own bytes (RFC 9110 §15.4.5, RFC 9111 §4.3.4)."""
    tag = headers.get("ETag")
    kept = _TAG.findall(request.headers.get("If-None-Match") or "")
    if tag is not None and f"W/{tag}" in kept and tag not in kept:
        headers.set("ETag", f"W/{tag}")
        vary(headers, "Accept-Encoding")


def preferred(encodings: tuple[str, ...], accepted: str | None) -> str | None:
    """The encoding that a client likes best, of several the first of ours; None = as it is. A
    weight that cannot be read is none."""
    weights: dict[str, float] = {}
    for member in (accepted or "").lower().split(",", 64)[:64]:  # ≤ 64
        name, _, parameter = member.partition(";")
        match = _WEIGHT.fullmatch(parameter.strip())
        weights[name.strip()] = 1.0 if not parameter else float(match[1]) if match else 0.0
    weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    best = max(encodings, key=lambda one: weights.get(one, weights.get("*", 0.0)), default="")
    weight = weights.get(best, weights.get("*", 0.0))
    return best if best and weight > 0 and weight >= weights.get("identity", 0.0) else None


def _gzip() -> Change:
    coder = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)

    def change(data: bytes, last: bool) -> bytes:
        return coder.compress(data) + coder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    return change


def _brotli() -> Change:
    import brotli

    coder = brotli.Compressor(quality=_BROTLI_QUALITY, lgwin=_WINDOW)

    def change(data: bytes, last: bool) -> bytes:
        coded: bytes = coder.process(data) + (coder.finish() if last else coder.flush())
        return coded

    return change


def _zstd() -> Change:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVEL, window_log=_WINDOW)
    coder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    block, end = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH

    def change(data: bytes, last: bool) -> bytes:
        return coder.compress(data) + coder.flush(end if last else block)

    return change


_CODERS: Final[dict[str, Callable[[], Change]]] = {  # ≤ 1 KiB
    "gzip": _gzip,
    "br": _brotli,
    "zstd": _zstd,
}
