"""Names and addresses in proxy.yaml: hosts, binds, networks, endpoints, names of services."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from proxy.settings.read import Read, Unspeakable, integer, parse_text

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~:@+-]{0,127}")


def parse_name(text: str) -> str:
    """A service or instance name: one segment of a registry key, and of a path."""
    if not _NAME.fullmatch(text):
        raise ValueError("is not a usable name")
    return text


def parse_port(text: str, low: int) -> int:
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
    number = parse_port(port, 0)
    if not host:
        raise ValueError(f"has no host (every address is 0.0.0.0:{number} or [::]:{number})")
    if ":" in host and not host.startswith("["):
        raise ValueError("holds an IPv6 address without brackets")
    return f"{parse_host_name(host)}:{number}"


def _parse_bind(text: str) -> str:
    if not text.startswith("unix:"):
        return _parse_tcp_bind(text)
    path = parse_text(text.removeprefix("unix:"))
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("is not an absolute path of a socket")
    # sockaddr_un has 108 bytes for the path and its closing NUL.
    if len(path.encode()) > 107:
        raise ValueError("is a path longer than 107 bytes")
    return "unix:" + path


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


def _parse_url(text: str) -> str:
    return parse_endpoint(text, bare=False)


def parse_endpoint(text: str, *, bare: bool = True) -> str:
    """`bare`: without a path and a query."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("does not begin with http:// or https://")
    if "@" in url.netloc:
        raise Unspeakable("holds a user name (use username and password)")
    if not url.hostname:
        raise ValueError("has no host")
    if "#" in text or (bare and (url.path not in ("", "/") or "?" in text)):
        raise ValueError("has something behind the host and port")
    host = parse_host_name(f"[{url.hostname}]" if ":" in url.hostname else url.hostname)
    if url.netloc.endswith(":"):
        raise ValueError("has no port behind the colon")
    rest = "" if bare else parse_text(text).partition(url.netloc)[2]
    return f"{url.scheme}://{host}" + ("" if port is None else f":{port}") + rest


_FORMS: Final = "host:port, [IPv6]:port"
NAMES: Final = "1 to 128 letters, digits and . _ ~ : @ + -"


def is_loopback(host: str) -> bool:
    """Whether a host of `bind` is this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


NAME: Final = Read(parse_name, "name", NAMES)
BIND: Final = Read(_parse_bind, "bind", f"{_FORMS} or unix:/path")
TCP_BIND: Final = Read(_parse_tcp_bind, "bind", _FORMS)
CIDR: Final = Read(_parse_cidr, "network", "10.0.0.0/8, fd00::/8 or one address")
HOST_NAME: Final = Read(parse_host_name, "host name", "a host name such as mesh.local")
ADDRESS: Final = Read(_parse_address, "address", "an IP address or a host name")
PORT: Final = integer(1, 65535)
ENDPOINT: Final = Read(parse_endpoint, "URL", "http://host:port or https://host:port")
URL: Final = Read(_parse_url, "URL", "http://host:port/path or https://host:port/path")
