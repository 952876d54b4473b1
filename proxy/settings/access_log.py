"""Settings of the access log: `access_log:`."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, Final, NamedTuple

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct
from proxy.settings.process import writable
from proxy.settings.read import SHARE, SWITCH, TEXT, choice

FIELDS: Final = (
    "time", "client", "method", "target", "protocol", "status", "bytes_received", "bytes_sent",
    "duration_ms", "first_byte_ms", "route", "service", "instance", "upstream", "attempts", "error",
    "fault", "request_id", "host", "user_agent", "referer", "forwarded_for", "grpc_status",
    "trace_id", "listener", "filter", "filters", "http2_stream", "tls_version", "tls_cipher",
    "tls_name", "tls_resumed", "tls_client",
)  # fmt: skip
"""Fields that a line may have. `engine/access_fields.py` says what each of them is."""
_NCSA: Final = ("common", "combined")
_DAEMONS: Final = ("syslog:", "journald:")
_SYSLOG: Final = re.compile(r"(udp|tcp)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ALLOWED: Final = (
    "syslog:udp://HOST:PORT, syslog:tcp://HOST:PORT, syslog:unix:/PATH, syslog:, journald: or"
    " journald:/PATH"
)


class Daemon(NamedTuple):
    """Where a daemon takes lines."""

    journal: bool = False
    """Whether the daemon is that of systemd."""
    stream: bool = False
    host: str = ""
    """Empty = it has a Unix socket."""
    port: int = 0
    path: str = ""


def to_daemon(path: str) -> bool:
    """Whether `access_log.path` means a daemon, and no file."""
    return path.startswith(_DAEMONS)


def daemon_of(path: str) -> Daemon:
    """The daemon that `access_log.path` means. ValueError if none."""
    kind, _, where = path.partition(":")
    if kind == "journald":
        if where and not where.startswith("/"):
            raise ValueError("is no absolute path")
        return Daemon(journal=True, path=where or "/run/systemd/journal/socket")
    if not where or where.startswith("unix:/"):
        return Daemon(path=where.removeprefix("unix:") or "/dev/log")
    match = _SYSLOG.fullmatch(where)
    # RFC 5426 and RFC 6587: 514, which TCP shares with a shell of old; 601 is registered for it.
    port = int((match and match[3]) or (601 if where.startswith("tcp") else 514))
    if match is None or not 0 < port < 65536:
        raise ValueError("is no address of a syslog daemon")
    return Daemon(stream=match[1] == "tcp", host=match[2].strip("[]"), port=port)


class AccessLogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`access_log:`."""

    path: Annotated[
        str,
        TEXT,
        "File to append to; `-` is the standard output; `syslog:udp://HOST:PORT`,"
        " `syslog:tcp://HOST:PORT`, `syslog:unix:/PATH` and `journald:` are"
        " [daemons](access-log.md#syslog-and-the-journal). A file's directory must exist. Links"
        " that others could have made are not followed ([access-log.md](access-log.md#writing)).",
    ] = "-"
    format: Annotated[
        str,
        choice(("json", "text", "common", "combined"), "an access log format"),
        "`json`, `text` (`KEY=VALUE` each), `common` or `combined` (the formats of NCSA and"
        " Apache).",
    ] = "json"
    sample: Annotated[
        float,
        SHARE,
        "Share of the requests that is logged, 0 to 1. Answers of 500 and above, and answers that"
        " broke off, are always logged.",
    ] = 1.0
    query: Annotated[
        bool,
        SWITCH,
        "Log targets and referers with their query. `false` for queries that hold secrets.",
    ] = True
    fields: Annotated[
        tuple[str, ...],
        choice(FIELDS, "a field of the access log"),
        Distinct(),
        "What lines of `json` and `text` say, in this order"
        " ([access-log.md](access-log.md#chosen-fields)). Empty: the usual ones.",
    ] = ()


def resolve_access_log(
    log: AccessLogSettings | None, directory: FilePath, report: Report
) -> AccessLogSettings | None:
    """The settings with the file's name resolved."""
    if log is None:
        return None
    if log.fields and log.format in _NCSA:
        report.complain(
            ("access_log", "fields"), f"has no meaning for format {log.format}; allowed: json, text"
        )
    if log.path == "-":
        return log
    if to_daemon(log.path):
        try:
            daemon_of(log.path)
        except ValueError as error:
            report.complain(("access_log", "path"), f'"{log.path}" {error}; allowed: {_ALLOWED}')
        return log
    return msgspec.structs.replace(
        log, path=writable(("access_log", "path"), directory / log.path, report)
    )
