"""Settings of the access log: `access_log:`."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct
from proxy.settings.process import writable
from proxy.settings.read import SHARE, SWITCH, TEXT, choice

FIELDS: Final = (
    "time", "client", "method", "target", "protocol", "status", "bytes_received", "bytes_sent",
    "duration_ms", "first_byte_ms", "route", "service", "instance", "upstream", "attempts", "error",
    "fault", "request_id", "host", "user_agent", "referer", "forwarded_for", "grpc_status",
    "trace_id", "listener", "filter", "http2_stream", "tls_version", "tls_cipher", "tls_name",
    "tls_resumed", "tls_client",
)  # fmt: skip
"""Fields that a line may have. `engine/access_fields.py` says what each of them is."""
_NCSA: Final = ("common", "combined")


class AccessLogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`access_log:`."""

    path: Annotated[
        str,
        TEXT,
        "File to append to; `-` is the standard output. Its directory must exist. Links that others"
        " could have made are not followed ([access-log.md](access-log.md#writing)).",
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
    return msgspec.structs.replace(
        log, path=writable(("access_log", "path"), directory / log.path, report)
    )
