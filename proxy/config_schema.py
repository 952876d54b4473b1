"""The shape of proxy.yaml: every key, what kind of value it takes, and its default.

Readers turn one scalar into one value or say, in plain words, what is wrong and what is
allowed. Sections only list keys: what two keys mean together (a route needs a service or a
template) is for `config.py`, and so is the table of settings this version does not have yet.
Defaults come from `model.py`, where workers and tests find them too.
"""

from __future__ import annotations

import grp
import math
import pwd
import re
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from proxy import model
from proxy.catalog import BALANCERS, CHECKS, PROVIDERS
from proxy.yaml_lines import Path, Scalar

T = TypeVar("T")

# --------------------------------------------------------------------------------- words


def shown(value: object) -> str:
    """A value as an error message quotes it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    assert isinstance(value, Scalar)
    text = value.text if len(value.text) <= 60 else value.text[:57] + "..."
    quoted = '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'
    if value.written is not None:
        return f"{quoted} (from {value.written})"
    return quoted


def did_you_mean(word: str, known: Collection[str]) -> str:
    """` (did you mean "…"?)`, or nothing when no known word is near."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    near = near or [name for name in by_lower if name.startswith(f"{word.lower()}_")]
    return f' (did you mean "{by_lower[near[0]]}"?)' if near else ""


class _Unspeakable(ValueError):
    """What is wrong with a value that holds a secret, although its key does not say so."""


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
    ) -> None:
        self._parse = parse
        self.kind = kind
        self.allowed = allowed
        self._literal = literal
        self._secret = secret

    def __call__(self, value: object) -> T:
        if not isinstance(value, Scalar):
            raise ValueError(f"is {shown(value)}; allowed: {self.allowed}")
        if value.empty:
            raise ValueError(f"is empty; allowed: {self.allowed}, or leave the key out")
        subject = "the value" if self._secret else shown(value)
        if self._literal and not value.literal:
            raise ValueError(f"{subject} is text; allowed: {self.allowed}, without quotes")
        try:
            return self._parse(value.text)
        except ValueError as error:
            if isinstance(error, _Unspeakable):
                subject = "the value"
            raise ValueError(f"{subject} {error}; allowed: {self.allowed}") from None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self)


# ------------------------------------------------------------------------------- readers

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_YEAR = 8760 * 3600.0

_FACTORS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"([0-9]{1,15})(B|[KMG]i?B)?")

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~:@+-]{0,127}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "ACL", "QUERY"),
    *("BIND", "REBIND", "UNBIND", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "MKCALENDAR"),
    *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "LINK", "UNLINK", "SOURCE"),
)
"""What the request parser knows; a route for any other method could never match. `CONNECT`
is missing because it is always answered with 405."""


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

    return Read(parse, "duration", allowed)


def size(low: int, high: int, zero: str = "") -> Read[int]:
    allowed = f"a size from {low} to {high} bytes, such as 64KiB or 10MiB"
    allowed += f" ({zero})" if zero else ""

    def parse(text: str) -> int:
        value = parse_size(text)
        if not low <= value <= high:
            raise ValueError("is out of range")
        return value

    return Read(parse, "size", allowed)


def integer(low: int, high: int, zero: str = "") -> Read[int]:
    allowed = f"a whole number from {low} to {high}" + (f" ({zero})" if zero else "")

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError("is not a whole number")
        if not low <= int(text) <= high:
            raise ValueError("is out of range")
        return int(text)

    return Read(parse, "integer", allowed, literal=True)


def number(low: float, high: float) -> Read[float]:
    def parse(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise ValueError("is not a number")
        if not low <= float(text) <= high:
            raise ValueError("is out of range")
        return float(text)

    return Read(parse, "number", f"a number from {low:g} to {high:g}", literal=True)


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

    return Read(parse, "integer" if whole else "number", allowed, literal=True)


def choice(names: Collection[str], noun: str) -> Read[str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is not {noun}{did_you_mean(text, names)}")
        return text

    return Read(parse, "word", ", ".join(names))


def parse_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def _parse_switch(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError("is not a switch") from None


def parse_name(text: str) -> str:
    """A service or instance name: one segment of a registry key, and of a path."""
    if not _NAME.fullmatch(text):
        raise ValueError("is not a usable name")
    return text


def _parse_port(text: str, low: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not low <= int(text) <= 65535:
        raise ValueError(f"has no port from {low} to 65535")
    return int(text)


def parse_host_name(text: str) -> str:
    """A DNS name or an IP address (v6 in brackets), in lower case."""
    lower = text.lower()
    if lower.startswith("[") and lower.endswith("]"):
        try:
            return f"[{IPv6Address(lower[1:-1])}]"
        except ValueError:
            raise ValueError("holds no IPv6 address in its brackets") from None
    if not lower.isascii():
        raise ValueError("is not ASCII (write an international name in its xn-- form)")
    if len(lower) > 253 or not _HOST_NAME.fullmatch(lower):
        raise ValueError("is not a host name")
    if re.fullmatch(r"[0-9.]+", lower):
        try:
            IPv4Address(lower)
        except ValueError:
            raise ValueError("is not an IPv4 address") from None
    return lower


def split_bind(bind: str) -> tuple[str, int]:
    """A checked `host:port` or `[v6]:port` → (host without brackets, port)."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _parse_tcp_bind(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("has no port")
    number = _parse_port(port, 0)
    if not host:
        raise ValueError(f"has no host (every address is 0.0.0.0:{number} or [::]:{number})")
    if ":" in host and not host.startswith("["):
        raise ValueError("holds an IPv6 address without brackets")
    return f"{parse_host_name(host)}:{number}"


def _parse_bind(text: str) -> str:
    if not text.startswith("unix:"):
        return _parse_tcp_bind(text)
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("is not an absolute path of a socket")
    # sockaddr_un has 108 bytes for the path and its closing NUL.
    if len(path.encode()) > 107:
        raise ValueError("is a path longer than 107 bytes")
    return "unix:" + parse_text(path)


def _parse_mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("is not a file mode in octal digits")
    # Connecting needs the permission to write.
    if not int(text, 8) & 0o222:
        raise ValueError("lets nobody connect")
    return int(text, 8)


def _parse_owner(text: str) -> tuple[int, int]:
    """`user`, `user:group` or `:group` → their ids; -1 for what is not given."""
    user, colon, group = text.partition(":")
    if not (group if colon else user):
        raise ValueError("is not an owner")
    return (
        _parse_id(user, "user", lambda name: pwd.getpwnam(name).pw_uid),
        _parse_id(group, "group", lambda name: grp.getgrnam(name).gr_gid),
    )


def _parse_id(name: str, what: str, look_up: Callable[[str], int]) -> int:
    if not name:
        return -1
    if re.fullmatch("[0-9]{1,10}", name):
        # The last one of 32 bits means "unchanged" to the system.
        if int(name) >= 2**32 - 1:
            raise ValueError(f"has too large a {what} id")
        return int(name)
    try:
        return look_up(name)
    except (KeyError, ValueError):
        raise ValueError(f"names a {what} that this machine does not have") from None


def _parse_cidr(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        pass
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is not a network") from None
    raise ValueError(f"has bits set behind its prefix length (did you mean {network}?)")


def _parse_address(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError:
        return parse_host_name(text)


def _parse_endpoint(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("does not begin with http:// or https://")
    if "@" in url.netloc:
        raise _Unspeakable("holds a user name (use username and password)")
    if not url.hostname:
        raise ValueError("has no host")
    if url.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError("has something behind the host and port")
    host = parse_host_name(f"[{url.hostname}]" if ":" in url.hostname else url.hostname)
    if url.netloc.endswith(":"):
        raise ValueError("has no port behind the colon")
    return f"{url.scheme}://{host}" + ("" if port is None else f":{port}")


def _parse_prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/"):
        raise ValueError("does not begin and end with /")
    return parse_text(text)


def _parse_listener_name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise ValueError("is not a usable name")
    return text


def _parse_admin_token(text: str) -> str:
    # RFC 6750 section 2.1; anything else cannot stand in an Authorization field.
    if not re.fullmatch(r"(?:[A-Za-z0-9\-._~+/]+=*)?", text):
        raise ValueError("cannot be sent as a bearer token")
    return text


def _parse_host_pattern(text: str) -> str:
    """A route's host. Template and wildcard are whole labels, so that a label in a request
    either is the service's name or is not."""
    rest = text.replace("{service}", "service")
    if "{" in rest or "}" in rest:
        raise ValueError("holds braces that are not {service}")
    if text.count("{service}") > 1:
        raise ValueError("holds {service} more than once")
    if "{service}" in text and "{service}" not in text.split("."):
        raise ValueError("has a label that is only partly {service}")
    if rest.startswith("*."):
        if "{service}" in text:
            raise ValueError("is a wildcard and a template at once")
        rest = rest[2:]
    if "*" in rest:
        raise ValueError("has a * that is not the whole first label")
    if re.search(r"[^\]]:[0-9]*$|\]:", rest):
        raise ValueError("has a port")
    parse_host_name(rest)
    return "{service}".join(part.lower() for part in text.split("{service}"))


_PATH = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")  # RFC 3986 section 3.3
_NEVER = re.compile("%(?:00|2f|5c)", re.IGNORECASE)


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if "?" in text or "#" in text:
        raise ValueError("holds a query or a fragment")
    if "{" in text or "}" in text:
        raise ValueError("holds braces")
    if not _PATH.fullmatch(text):
        raise ValueError("holds characters that a path must have percent-encoded")
    if never := _NEVER.search(text):
        raise ValueError(f"holds {never[0]}, which is refused in requests")
    segments = re.sub("%2e", ".", text, flags=re.IGNORECASE).split("/")
    if "." in segments or ".." in segments:
        raise ValueError("holds a dot segment, which requests never have when they are matched")
    return text


def _parse_path_prefix(text: str) -> str:
    rest = text.replace("{service}", "service")
    if "{" in rest or "}" in rest:
        raise ValueError("holds braces that are not {service}")
    if text.count("{service}") > 1:
        raise ValueError("holds {service} more than once")
    if "{service}" in text and "{service}" not in text.split("/"):
        raise ValueError("has a segment that is only partly {service}")
    _parse_path(rest)
    return text


def _parse_method(text: str) -> str:
    if text == "CONNECT":
        raise ValueError("is answered with 405 and never routed")
    if text not in METHODS:
        raise ValueError(f"is not a method{did_you_mean(text, METHODS)}")
    return text


def _parse_set_host(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return parse_host_name(text)
    return f"{parse_host_name(host)}:{_parse_port(port, 1)}"


def parse_field_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError("is not a field name")
    if "_" in text:
        raise ValueError("holds _, and fields with _ are dropped from requests")
    return text


def _parse_field_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("is not printable ASCII")
    if text != text.strip():
        raise ValueError("begins or ends with a space, which a field value never does")
    return text


def _parse_balancer_key(text: str) -> str:
    source, colon, name = text.partition(":")
    if text in ("client_ip", "host", "path"):
        return text
    if source in ("header", "cookie", "query") and not colon:
        raise ValueError("names no field")
    if source == "header":
        return f"header:{parse_field_name(name)}"
    if source == "cookie" and _TOKEN.fullmatch(name):
        return text
    if source == "query" and name and name.isascii() and name.isprintable():
        return text
    raise ValueError("is not a source of keys")


def _parse_workers(text: str) -> int | None:
    if text == "auto":
        return None
    # One row of the shared in-flight board per worker; more than this is a typing mistake.
    if not re.fullmatch("[1-9][0-9]{0,2}", text) or int(text) > 256:
        raise ValueError("is not a number of processes")
    return int(text)


def _parse_status_codes(text: str) -> str:
    codes = r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?"
    if not re.fullmatch(rf"{codes}(?:,{codes})*", text):
        raise ValueError("is not a list of status codes")
    return text


_NO = ("off", "false", "no")


def _off(value: object) -> object:
    """`ejection: off` and the like: a mapping, or a switch that can only say no."""
    if isinstance(value, Scalar) and value.literal:
        if value.text.lower() in _NO:
            return None
        if not value.empty:
            raise ValueError(f"{shown(value)} is not a mapping; allowed: a mapping, or off")
    return value


def _off_or_text(value: object) -> object:
    """A file's name, or a switch that can only say no."""
    off = isinstance(value, Scalar) and value.literal and value.text.lower() in _NO
    return None if off else value


def _short_form(value: object) -> object:
    """`balancer: round_robin` is short for `balancer: {type: round_robin}`."""
    return {"type": value} if isinstance(value, Scalar) and not value.empty else value


def _empty_is_nothing(value: object) -> object:
    """A section whose every line is commented out is an empty section."""
    return {} if isinstance(value, Scalar) and value.empty else value


_FORMS = "host:port, [IPv6]:port"
Duration = Annotated[float, duration()]
Positive = Annotated[float, duration(0.001)]
Unlimited = Annotated[float, duration(zero="0 = no limit")]
Flag = Annotated[bool, Read(_parse_switch, "boolean", "true or false", literal=True)]
Text = Annotated[str, Read(parse_text, "text", "text")]
Secret = Annotated[str, Read(parse_text, "text", "printable text", secret=True)]
Share = Annotated[float, number(0, 1)]
Count = Annotated[int, integer(0, 1_000_000)]
NAMES = "1 to 128 letters, digits and . _ ~ : @ + -"
Name = Annotated[str, Read(parse_name, "name", NAMES)]
Bind = Annotated[str, Read(_parse_bind, "bind", f"{_FORMS} or unix:/path")]
Mode = Annotated[int | None, Read(_parse_mode, "mode", 'an octal mode such as "0660"')]
Owner = Annotated[
    tuple[int, int] | None,
    Read(_parse_owner, "owner", "user, user:group or :group, by names or by numbers"),
]
TcpBind = Annotated[str, Read(_parse_tcp_bind, "bind", _FORMS)]
Cidr = Annotated[str, Read(_parse_cidr, "network", "10.0.0.0/8, fd00::/8 or one address")]
Address = Annotated[str, Read(_parse_address, "address", "an IP address or a host name")]
Port = Annotated[int, integer(1, 65535)]
Endpoint = Annotated[str, Read(_parse_endpoint, "URL", "http://host:port or https://host:port")]
Method = Annotated[str, Read(_parse_method, "method", ", ".join(METHODS[:7]) + " and others")]
PathText = Annotated[str, Read(_parse_path, "path", "a path such as /new")]
FieldValue = Annotated[str, Read(_parse_field_value, "text", "the exact value of the field")]
Key = Annotated[
    str,
    Read(
        _parse_balancer_key,
        "key",
        "client_ip, host, path, header:NAME, cookie:NAME or query:NAME",
    ),
]
WEIGHT = integer(0, 65_535, "0 = drained")
"""The same ceiling as for instances from the registry: hash rings grow with weights."""
Off = BeforeValidator(_off)
OrNothing = BeforeValidator(_empty_is_nothing)

# ------------------------------------------------------------------------------ sections

_LIMITS = model.ListenerLimits()
_PATIENCE = model.ListenerTimeouts()
_LISTENER = model.ListenerSettings()
_ADMIN = model.AdminSettings()
_LOG = model.LogSettings()
_REGISTRY = model.RegistrySettings()
_SHUTDOWN = model.ShutdownSettings()
_ACCESS = model.AccessLogSettings()
_TIMEOUTS = model.Timeouts()
_KEEPALIVE = model.Keepalive()
_SERVICE = model.ServiceSettings()
_RETRY = model.RetrySettings()
_EJECTION = model.EjectionSettings()
_BREAKER = model.BreakerSettings()
_RATE = model.RateLimitSettings(requests=1)
_DRAIN = model.DrainSettings()
_CHECK = model.HealthCheckSettings()
_POOL = model.PoolSettings()
_GUARD = model.MassLossSettings()
_FAILOVER = model.FailoverSettings()


class Section(BaseModel):
    """A mapping with fixed keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListenerLimits(Section):
    head: Annotated[int, size(1024, 1024 * 1024)] = _LIMITS.head
    fields: Annotated[int, integer(1, 10_000)] = _LIMITS.fields
    target: Annotated[int, size(64, 1024 * 1024)] = _LIMITS.target
    body: Annotated[int, size(0, 2**50, "0 = no limit")] = _LIMITS.body
    connections: Annotated[int, integer(0, 10_000_000, "0 = no limit")] = _LIMITS.connections


class ListenerTimeouts(Section):
    head: Positive = _PATIENCE.head
    body: Positive = _PATIENCE.body
    idle: Positive = _PATIENCE.idle
    linger: Duration = _PATIENCE.linger


class Certificate(Section):
    cert: Text
    key: Text


class ListenerTls(Section):
    certificates: list[Certificate]
    client_ca: Text | None = None
    min_version: Annotated[str, choice(("1.2", "1.3"), "a TLS version")] = "1.2"


class Listener(Section):
    name: Annotated[
        str,
        Read(_parse_listener_name, "name", "1 to 63 letters, digits and . _ -"),
    ] = _LISTENER.name
    bind: Bind = _LISTENER.bind
    mode: Mode = _LISTENER.mode
    owner: Owner = _LISTENER.owner
    trusted_proxies: list[Cidr] = []
    limits: ListenerLimits = ListenerLimits()
    timeouts: ListenerTimeouts = ListenerTimeouts()
    proxy_protocol: Flag = _LISTENER.proxy_protocol
    forwarded: Flag = False
    client_close: Annotated[
        str, choice(("abort", "half_close"), "what a client's close may mean")
    ] = _LISTENER.client_close
    tls: Annotated[ListenerTls | None, Off] = None


class Admin(Section):
    bind: TcpBind = _ADMIN.bind
    token: Annotated[
        str,
        Read(
            _parse_admin_token,
            "text",
            "letters, digits and - . _ ~ + /, with = only at the end",
            secret=True,
        ),
    ] = _ADMIN.token


class Log(Section):
    level: Annotated[str, choice(("debug", "info", "warning", "error"), "a log level")] = _LOG.level
    format: Annotated[str, choice(("json", "console"), "a log format")] = _LOG.format


class AccessLog(Section):
    path: Text = _ACCESS.path
    format: Annotated[str, choice(("json", "common", "combined"), "an access log format")] = (
        _ACCESS.format
    )
    sample: Share = _ACCESS.sample
    query: Flag = _ACCESS.query


class RegistryTls(Section):
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None


class OneRegistry(Section):
    """What the registry and each of its backups have in common."""

    type: Annotated[str, choice(tuple(PROVIDERS), "a registry type")] = _REGISTRY.type
    endpoints: list[Endpoint] = []
    prefix: Annotated[str, Read(_parse_prefix, "key prefix", "a key prefix such as /services/")] = (
        _REGISTRY.prefix
    )
    username: Text = _REGISTRY.username
    password: Secret = _REGISTRY.password
    tls: Annotated[RegistryTls | None, Off] = None


class MassLossGuard(Section):
    share: Share = _GUARD.share
    window: Positive = _GUARD.window
    hold: Positive = _GUARD.hold


class Registry(OneRegistry):
    backups: list[OneRegistry] = []
    check_interval: Positive = _FAILOVER.check_interval
    check_timeout: Positive = _FAILOVER.check_timeout
    snapshot: Annotated[Text | None, BeforeValidator(_off_or_text)] = None
    mass_loss_guard: Annotated[MassLossGuard | None, Off] = None


class Shutdown(Section):
    delay: Duration = _SHUTDOWN.delay
    grace: Duration = _SHUTDOWN.grace


class Balancer(Section):
    """Further keys are the parameters of the balancer, which its class declares."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Annotated[str, choice(tuple(BALANCERS), "a balancer")] = _SERVICE.balancer.type
    key: Key | None = None


class HealthCheck(Section):
    type: Annotated[str, choice(tuple(CHECKS), "a kind of check")] = _CHECK.type
    path: PathText = _CHECK.path
    expect: Annotated[str, Read(_parse_status_codes, "status codes", "200, 200-299 or 200,204")] = (
        _CHECK.expect
    )
    command: Text = _CHECK.command
    interval: Positive = _CHECK.interval
    timeout: Positive = _CHECK.timeout
    fall: Annotated[int, integer(1, 100)] = _CHECK.fall
    rise: Annotated[int, integer(1, 100)] = _CHECK.rise


class Timeouts(Section):
    connect: Unlimited = _TIMEOUTS.connect
    first_byte: Unlimited = _TIMEOUTS.first_byte
    idle: Unlimited = _TIMEOUTS.idle
    total: Unlimited = _TIMEOUTS.total
    tunnel_idle: Unlimited = _TIMEOUTS.tunnel_idle
    queue: Unlimited = _TIMEOUTS.queue


class Retry(Section):
    max_retries: Annotated[int, integer(0, 5, "0 = off")] = _RETRY.max_retries
    on: list[
        Annotated[
            str,
            choice(("connect", "reset", "first_byte", "502", "503", "504"), "a reason to retry"),
        ]
    ] = list(_RETRY.on)
    budget: Share = _RETRY.budget
    methods: list[Method] = list(_RETRY.methods)


class Ejection(Section):
    consecutive_failures: Annotated[int, integer(1, 1000)] = _EJECTION.consecutive_failures
    base: Positive = _EJECTION.base
    max: Positive = _EJECTION.max
    max_share: Share = _EJECTION.max_share


class CircuitBreaker(Section):
    failure_ratio: Share = _BREAKER.failure_ratio
    min_requests: Annotated[int, integer(1, 1_000_000)] = _BREAKER.min_requests
    window: Positive = _BREAKER.window
    open: Positive = _BREAKER.open


class Queue(Section):
    size: Count = _SERVICE.queue.size


class RateLimit(Section):
    requests: Annotated[int, integer(1, 1_000_000_000)]
    per: Positive = _RATE.per
    burst: Annotated[int, integer(1, 1_000_000_000)] | None = _RATE.burst
    key: Key = _RATE.key


class Keepalive(Section):
    idle: Positive = _KEEPALIVE.idle
    max_idle: Annotated[int, integer(0, 10_000, "0 = no idle connections")] = _KEEPALIVE.max_idle
    max_requests: Annotated[int, integer(1, 1_000_000_000)] = _KEEPALIVE.max_requests


class Drain(Section):
    tunnels: Annotated[str, choice(("keep", "close"), "a way to treat tunnels")] = _DRAIN.tunnels
    close_after: Positive = _DRAIN.close_after


class Instance(Section):
    id: Name | None = None
    address: Address
    port: Port
    weight: Annotated[int, WEIGHT] = 1
    version: Text = ""
    metadata: dict[str, Text] = {}


class Defaults(Section):
    """What every service inherits, key by key."""

    balancer: Annotated[Balancer, BeforeValidator(_short_form)] = Balancer()
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    retry: Annotated[Retry | None, Off] = Retry()
    health_check: Annotated[HealthCheck | None, Off] = None
    ejection: Annotated[Ejection | None, Off] = Ejection()
    circuit_breaker: Annotated[CircuitBreaker | None, Off] = None
    panic_threshold: Share = _POOL.panic_threshold
    slow_start: Duration = _POOL.slow_start
    max_inflight: Annotated[int, integer(0, 1_000_000, "0 = no limit")] = 0
    queue: Queue = Queue()
    rate_limit: Annotated[RateLimit | None, Off] = None
    drain: Drain = Drain()
    fallback_instances: list[Instance] = []


class Service(Defaults):
    instances: list[Instance] | None = None


class Route(Section):
    host: (
        Annotated[
            str,
            Read(
                _parse_host_pattern,
                "host pattern",
                "users.example.com, *.example.com or {service}.example.com",
            ),
        ]
        | None
    ) = None
    path_prefix: (
        Annotated[
            str, Read(_parse_path_prefix, "path prefix", "a path such as /orders or /svc/{service}")
        ]
        | None
    ) = None
    methods: list[Method] = []
    headers: dict[str, FieldValue] = {}
    strip_prefix: Flag = False
    rewrite_prefix: PathText | None = None
    set_host: (
        Annotated[str, Read(_parse_set_host, "host", "upstream.internal or host:port")] | None
    ) = None
    service: Name | None = None


class File(Section):
    """The top of proxy.yaml."""

    listeners: list[Listener] = [Listener()]
    admin: Admin = Admin()
    workers: Annotated[
        int | None, Read(_parse_workers, "integer", "auto, or a whole number from 1 to 256")
    ] = None
    log: Log = Log()
    access_log: Annotated[AccessLog | None, Off] = None
    registry: Registry = Registry()
    shutdown: Shutdown = Shutdown()
    defaults: Annotated[Defaults, OrNothing] = Defaults()
    services: Annotated[dict[str, Annotated[Service, OrNothing]], OrNothing] = {}
    routes: list[Route] = []


# ----------------------------------------------------------------------- looking around


def sections(annotation: object) -> type[Section] | None:
    """The section that values of a field, or the items of its list or mapping, are."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        if (found := sections(argument)) is not None:
            return found
    return None


def _steps(annotation: object) -> tuple[str, ...]:
    """How many `*` stand between a field's name and the keys below it."""
    origin = get_origin(annotation)
    steps: tuple[str, ...] = ("*",) if origin in (list, dict) else ()
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return ()
    for argument in get_args(annotation):
        if sections(argument) is not None:
            return (*steps, *_steps(argument))
    return ()


def keys(
    section: type[Section] = File, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the schema as `services.*.timeouts.connect`, depth first."""
    for name, field in section.model_fields.items():
        path = (*above, name)
        yield ".".join(path), field
        if (below := sections(field.annotation)) is not None:
            yield from keys(below, (*path, *_steps(field.annotation)))


def reader(field: FieldInfo) -> Read[Any] | None:
    """How a field's value, or the items of its list or mapping, are read; None = a section."""

    def search(annotation: object) -> Read[Any] | None:
        for argument in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
            if isinstance(argument, Read):
                return argument
            if (found := search(argument)) is not None:
                return found
        return None

    own = next((item for item in field.metadata if isinstance(item, Read)), None)
    return own or (search(field.annotation) if sections(field.annotation) is None else None)


def section_at(path: Path) -> type[Section] | None:
    """The section that stands at a place of a file; None where keys are not fixed."""
    section: type[Section] = File
    skip = 0
    for step in path:
        if skip:
            skip -= 1
            continue
        field = section.model_fields.get(str(step))
        if field is None or (below := sections(field.annotation)) is None:
            return None
        section, skip = below, len(_steps(field.annotation))
    return None if skip else section
