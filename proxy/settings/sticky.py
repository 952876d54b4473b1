"""`sticky:`, clients that stay with one instance."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, Final

import msgspec

from proxy import files
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import SECRET, TEXT, UNLIMITED, Read, choice

_SMALLEST: Final = 16
"""Characters of a secret."""
_LARGEST: Final = 4096


def _parse_cookie(text: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text):
        raise ValueError("is not a cookie's name")
    return text


_COOKIE: Final = Read(_parse_cookie, "name", "up to 64 characters of a token, such as fl")


class StickySettings(msgspec.Struct, frozen=True, kw_only=True):
    """A cookie of the proxy's own that names the instance."""

    cookie: Annotated[
        str, _COOKIE, "Its name; another one for each service that shares a host with others."
    ] = "fl"
    ttl: Annotated[
        float, UNLIMITED, "How long clients keep it (`Max-Age`); 0 = until they are closed."
    ] = 0.0
    secure: Annotated[
        str,
        choice(("auto", "always", "never"), "a way to say Secure"),
        "`auto`: over TLS alone it is for TLS alone; `always`, `never`.",
    ] = "auto"
    same_site: Annotated[
        str, choice(("lax", "strict", "none"), "a value of SameSite"), "`lax`, `strict` or `none`."
    ] = "lax"
    secret: Annotated[
        str,
        SECRET,
        "At least 16 characters, the same in all proxies; without it the cookie is made from the"
        " service's name and the registry's prefix: whoever knows an instance's id can make one.",
    ] = ""
    secret_file: Annotated[
        str, TEXT, "A file with the secret, read at the start and at each reload."
    ] = ""


def check_sticky(given: Given, balancer: str, report: Report) -> None:
    """Complain of a service whose balancer hashes."""
    if report.sound(given.at("balancer", "type")):
        report.complain(
            given.at("sticky" if "sticky" in given else "balancer"),
            f"is sticky beside {balancer}, which keeps keys with instances itself; allowed: sticky:"
            " off, or another balancer",
        )


def with_secret(
    sticky: StickySettings | None, given: Given, directory: FilePath, prefix: str, report: Report
) -> StickySettings | None:
    """The same with its secret. `given`: of the service, or of `defaults`; `prefix`: what it is
    made from where there is none, the registry's."""
    if sticky is None:
        return None
    own = given.get("sticky") or Given(given.at("sticky"))
    secret, source = sticky.secret, own.at("secret")
    if sticky.secret_file:
        source = own.at("secret_file")
        if "secret" in own:
            report.complain(source, "stands beside secret; allowed: one of the two")
        try:
            secret = files.read(str(directory / sticky.secret_file), _LARGEST).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            report.complain(source, f"cannot be read ({reason}); allowed: a file with the secret")
            return sticky
    if ("secret" in own or sticky.secret_file) and len(secret) < _SMALLEST:
        report.complain(source, f"is too short; allowed: {_SMALLEST} characters or more")
    return msgspec.structs.replace(sticky, secret=secret or f"registry prefix {prefix}")
