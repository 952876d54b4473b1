"""Settings of the process itself: `admin:`, `log:`, `tracing:`, `shutdown:`."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from proxy import files
from proxy.settings.addresses import TCP_BIND, parse_host_name
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Off
from proxy.settings.read import (
    DURATION,
    SECRET,
    SHARE,
    TEXT,
    Read,
    choice,
    parse_text,
)
from proxy.settings.tree import Path

_LARGEST_PEM: Final = 1024 * 1024
"""Bytes that are looked at for a PEM block: more than any bundle of authorities has."""


LARGEST_KEY: Final = 4096
"""Bytes of a file with a secret that are looked at."""
SHORTEST_KEY: Final = 32
"""Bytes of a secret that proxies share, as many as the digests have that are made with it."""


def _parse_token(text: str) -> str:
    # RFC 6750 section 2.1; anything else cannot stand in an Authorization field.
    if not re.fullmatch(r"(?:[A-Za-z0-9\-._~+/]+=*)?", text):
        raise ValueError("cannot be sent as a bearer token")
    return text


BEARER: Final = Read(
    _parse_token, "text", "letters, digits and - . _ ~ + /, with = only at the end", secret=True
)


def _parse_admin_host(text: str) -> str:
    """A name in a Host field, or `*.` and all names below it."""
    name = text.removeprefix("*.")
    return text if text == "*" else text[: -len(name) or None] + parse_host_name(name)


_HOST: Final = Read(_parse_admin_host, "host pattern", "a host name, *.example.com or * for any")


def _parse_url(text: str) -> str:
    if not re.fullmatch(r"(https?://[A-Za-z0-9.\[\]:_-]+)?", text):
        raise ValueError("is not the URL of a server")
    return text


_URL: Final = Read(_parse_url, "text", "https://HOST:PORT")


class AdminTls(msgspec.Struct, frozen=True, kw_only=True):
    """`admin.tls:`."""

    cert: Annotated[
        str, TEXT, "PEM file with the certificate and its chain, the certificate first."
    ]
    key: Annotated[str, TEXT, "PEM file with its private key, not encrypted."]
    client_ca: Annotated[
        str | None,
        TEXT,
        "PEM file with authorities; when given, clients must show a certificate that one of them"
        " signed, probes and scrapers, too.",
    ] = None


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`admin:`."""

    bind: Annotated[
        str,
        TCP_BIND,
        "Where health, metrics and the admin API are served. Not a Unix socket.",
    ] = "127.0.0.1:9900"
    token: Annotated[
        str,
        BEARER,
        "When set, everything but `/healthz` and `/readyz` needs `Authorization: Bearer` with it."
        " Without it nothing can be changed where `admin.bind` is no loopback address.",
    ] = ""
    token_file: Annotated[str, TEXT, "File with `token`, read again when it changes."] = ""
    read_token: Annotated[
        str, BEARER, "A second token, which may look and change nothing: for scrapers."
    ] = ""
    read_token_file: Annotated[str, TEXT, "File with `read_token`, read again when it changes."] = (
        ""
    )
    hosts: Annotated[
        tuple[str, ...],
        _HOST,
        "Names under which the server may be called, besides addresses, `localhost` and the one in"
        " `admin.bind`: `proxy.example.com`, `*.example.com` for all names below, `*` for any.",
    ] = ()
    advertise: Annotated[
        str,
        _URL,
        "URL under which others of the [fleet](fleet.md) reach it, such as"
        " `https://web-1.internal:9900`; shown by `fairlead fleet`.",
    ] = ""
    tls: Annotated[
        AdminTls | None, Off(), "Serve HTTPS, and nothing else ([tls.md](tls.md#the-admin-server))."
    ] = None


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`log:`."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        choice(("debug", "info", "warning", "error"), "a log level"),
        "`debug`, `info`, `warning` or `error`.",
    ] = "info"
    format: Annotated[
        Literal["json", "console"],
        choice(("json", "console"), "a log format"),
        "`json` or `console` (for people).",
    ] = "json"


def _parse_collector(text: str) -> str:
    url = urlsplit(parse_text(text))
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("is not a URL of a collector")
    return text


class TracingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`tracing:`."""

    endpoint: Annotated[
        str,
        Read(_parse_collector, "URL", "a URL like http://127.0.0.1:4318/v1/traces"),
        "Where a collector takes OTLP over HTTP.",
    ] = "http://127.0.0.1:4318/v1/traces"
    encoding: Annotated[
        str,
        choice(("json", "protobuf"), "an encoding of OTLP"),
        "How spans are written: `json`, which can be read on the way, or `protobuf`, which every"
        " receiver of OTLP takes.",
    ] = "json"
    sample: Annotated[
        float,
        SHARE,
        "Share of the requests that is traced, of those that come without a `traceparent`; one that"
        " has it decides by its flag.",
    ] = 0.01
    propagation: Annotated[
        tuple[str, ...],
        choice(("w3c", "b3", "b3multi"), "a way to tell of a trace"),
        Distinct(),
        "How traces are continued, and instances told: `w3c` (`traceparent`), `b3` (one field) and"
        " `b3multi` (`X-B3-TraceId` …), which are read alike. A request that names a parent in"
        " several is believed in the first.",
    ] = ("w3c",)
    service_name: Annotated[str, TEXT, "Name of the proxy in traces (`service.name`)."] = "fairlead"
    headers: Annotated[
        dict[str, str], SECRET, "Fields of the requests to the collector, such as its token."
    ] = {}


class ShutdownSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`shutdown:`. Readiness fails at once, accepting goes on for `delay`, then what is in
    flight has `grace` to finish."""

    delay: Annotated[
        float,
        DURATION,
        "How long connections are still accepted after readiness fails, so that load balancers in"
        " front notice.",
    ] = 1.0
    grace: Annotated[
        float,
        DURATION,
        "How long requests in flight then have to finish before they are cut off.",
    ] = 30.0


def _parse_workers(text: str) -> int | None:
    if text == "auto":
        return None
    # One row of the shared in-flight board per worker; more than this is a typing mistake.
    if not re.fullmatch("[1-9][0-9]{0,2}", text) or int(text) > 256:
        raise ValueError("is not a number of processes")
    return int(text)


WORKERS: Final = Read(
    _parse_workers,
    "integer",
    "auto, or a whole number from 1 to 256",
    json={"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]},
)


def resolve_tls(tls: AdminTls | None, directory: FilePath) -> AdminTls | None:
    """The settings with the names of their files resolved."""
    if tls is None:
        return None
    named = {name: getattr(tls, name) for name in tls.__struct_fields__}
    files = {name: str(directory / file) for name, file in named.items() if file is not None}
    return AdminTls(**files)


def writable(path: Path, file: FilePath, report: Report) -> str:
    """The name of a file that is made when it is not there. Its directory must be there already,
    or nothing is ever written and nobody notices before the day it is needed."""
    try:
        if file.is_dir():
            report.complain(path, f'"{file}" is a directory; allowed: a file')
        elif not file.parent.is_dir():
            report.complain(
                path, f'"{file.parent}" is no directory; allowed: a file in one that exists'
            )
    except OSError as error:  # A name is too long, or who asks may not look there.
        report.complain(
            path, f"cannot be looked for ({error.strerror}); allowed: a file in a directory"
        )
    return str(file)


def readable_pem(path: Path, file: FilePath, report: Report) -> str:
    """The name of a file, after a complaint if it is no PEM file that can be read."""
    problem = ""
    try:
        if b"-----BEGIN " not in files.read(str(file), _LARGEST_PEM):
            problem = "holds no PEM block"
    except files.Refused as error:
        problem = str(error.strerror)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        report.complain(path, f'"{file}" {problem}; allowed: a readable PEM file')
    return str(file)


def checked_key(path: Path, name: str, directory: FilePath, report: Report) -> str:
    """The name of a file with a secret that proxies share, after a complaint if it cannot be read
    or is too short; "" = there is none."""
    if not name:
        return ""
    file, problem = str(directory / name), ""
    try:
        if len(files.read(file, LARGEST_KEY).strip()) < SHORTEST_KEY:
            problem = f"has less than {SHORTEST_KEY} bytes"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        allowed = f"a readable file with {SHORTEST_KEY} random bytes or more"
        report.complain(path, f'"{name}" {problem}; allowed: {allowed}')
    return file
