"""`sticky:`, clients that stay with one instance."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, Final

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import TEXT, UNLIMITED, Read, choice, parse_text
from proxy.settings.secrets import with_secrets

_SMALLEST: Final = 16
"""Characters of a secret."""


def _parse_cookie(text: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text):
        raise ValueError("is not a cookie's name")
    return text


def _parse_secret(text: str) -> str:
    if len(text) < _SMALLEST:
        raise ValueError("is too short")
    return parse_text(text)


_SECRET: Final = Read(_parse_secret, "text", f"{_SMALLEST} characters or more", secret=True)
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
        "`auto`: what is set over TLS, or behind a trusted proxy that says so, is for TLS alone;"
        " `always`, `never`.",
    ] = "auto"
    same_site: Annotated[
        str, choice(("lax", "strict", "none"), "a value of SameSite"), "`lax`, `strict` or `none`."
    ] = "lax"
    secret: Annotated[
        str,
        _SECRET,
        "At least 16 characters, the same in all proxies; without it the cookie is made from the"
        " service's name and the registry's prefix: whoever knows an instance's id can make one.",
    ] = ""
    secret_file: Annotated[str, TEXT, "A file with the secret, read again when it changes."] = ""


def check_sticky(given: Given, sticky: StickySettings, balancer: str, report: Report) -> None:
    """Complain of a cookie that browsers refuse, and of a balancer that hashes; `balancer`: its
    name, if it does."""
    if "sticky" in given and (sticky.same_site, sticky.secure) == ("none", "never"):
        report.complain(
            given.at("sticky", "same_site"),
            "none beside secure: never is refused by browsers; allowed: secure: always or auto",
        )
    if balancer and report.sound(given.at("balancer", "type")):
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
    sticky = with_secrets(sticky, own, directory, report)
    return msgspec.structs.replace(sticky, secret=sticky.secret or f"registry prefix {prefix}")
