"""Libraries, loaded without what most processes have no use for.

aiohttp, 3 MB and 60 ms: two contexts that trust the system's authorities, each of which reads all
of them, and a library in C++, with that language's own, for lists that are written once. structlog,
4 MB where others have installed rich, which paints tracebacks.
"""

from __future__ import annotations

import os
import ssl
import sys
from typing import Any, Final

_NO_EXTENSION: Final = "FROZENLIST_NO_EXTENSIONS"


class _Late(ssl.SSLContext):
    """Reads the system's authorities when the first connection is made with it."""

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """See `SSLContext`."""
        self._read()
        return ssl.SSLContext.wrap_bio(self, *given, **named)

    def wrap_socket(self, *given: Any, **named: Any) -> ssl.SSLSocket:
        """See `SSLContext`."""
        self._read()
        return ssl.SSLContext.wrap_socket(self, *given, **named)

    def _read(self) -> None:
        before = self.cert_store_stats()["x509"]
        super(ssl.SSLContext, self).set_default_verify_paths()
        # That says nothing of a file that is away for a moment, or for which no descriptor is left:
        # then the next connection reads anew.
        if self.cert_store_stats()["x509"] > before:
            self.__class__ = ssl.SSLContext  # type: ignore[assignment]


def _put_off(context: ssl.SSLContext) -> None:
    context.__class__ = _Late


def load_structlog() -> None:
    """Load it, if it is not yet, as where there is no rich."""
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


def load_aiohttp() -> None:
    """Load aiohttp, if it is not yet. Call it in a process of ours, where the environment is ours
    to change for a moment. A context that another thread makes meanwhile is a late one as well."""
    given = os.environ.get(_NO_EXTENSION)
    os.environ[_NO_EXTENSION] = "1"
    ssl.SSLContext.set_default_verify_paths = _put_off  # type: ignore[assignment]
    try:
        import aiohttp  # noqa: F401
    finally:
        del ssl.SSLContext.set_default_verify_paths
        if given is None:
            del os.environ[_NO_EXTENSION]
        else:
            os.environ[_NO_EXTENSION] = given
