"""PEM and a policy → contexts of `ssl`, for servers and for clients."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from proxy.tls import openssl

if TYPE_CHECKING:
    from proxy.settings.upstream_tls import UpstreamTls

_MODERN: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
CIPHERS: Final = {
    # What TLS 1.3 has, for 1.2: a fresh key for each session, encrypted and authenticated in one.
    "modern": _MODERN,
    # And for clients of before 2014, such as Windows 7's and Java 7's; still with fresh keys.
    "compatible": f"{_MODERN}:ECDHE+AES:!AESCCM",
}
"""Suites of TLS 1.2 by the words of the settings; those of TLS 1.3 are all good."""

_AUTHENTICATED: Final = ("GCM", "CHACHA20", "CCM")
_DER: Final = 2
"""Encoding of a certificate (`_ssl.ENCODING_DER`)."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Pair(Protocol):
    """A certificate with its chain, and its key."""

    @property
    def cert(self) -> bytes:
        """PEM, the certificate itself first."""

    @property
    def key(self) -> bytes:
        """PEM, not encrypted."""


class ServerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a server's contexts beside the certificate."""

    min_version: str = "1.2"
    """`1.2` or `1.3`."""
    ciphers: str = "modern"
    """A word of `CIPHERS`, or a list in OpenSSL's words."""
    client_ca: bytes = b""
    """PEM of the authorities for clients' certificates; empty = clients are not asked for one."""
    client_auth: str = "require"
    """`require` or `request`."""
    tickets: bool = True
    """Clients may resume sessions."""
    ticket_keys: bytes = b""
    session_context: bytes = b""
    """See `openssl.share_sessions`."""
    alpn: tuple[str, ...] = ()
    """Protocols, the best one first."""


def server_context(pairs: Sequence[Pair], policy: ServerPolicy) -> ssl.SSLContext:
    """A context with these certificates, of different kinds, of which each client gets one that it
    understands. ValueError for what OpenSSL does not take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    openssl.limit_groups(context)
    openssl.share_sessions(
        context, policy.ticket_keys if policy.tickets else b"", policy.session_context
    )
    context.minimum_version = _VERSIONS[policy.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if not policy.tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if policy.alpn:
        context.set_alpn_protocols(list(policy.alpn))
    try:
        context.set_ciphers(CIPHERS.get(policy.ciphers, policy.ciphers))
        if policy.client_ca:
            required = policy.client_auth == "require"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            trust(context, policy.client_ca)
        for pair in pairs:  # ≤ names
            load_pair(context, pair.cert, pair.key)
    except OSError as error:  # of which ssl.SSLError is one
        raise ValueError(reason(error)) from None
    return context


def client_context(
    ca: bytes | None = None,
    cert: bytes = b"",
    key: bytes = b"",
    *,
    verify: bool = True,
    min_version: str = "1.2",
) -> ssl.SSLContext:
    """A context that trusts the authorities in `ca` (None = the system's: 35 ms and 0.8 MB) and
    shows a certificate, if there is one. ssl.SSLError for what OpenSSL does not take."""
    if verify:
        context = ssl.create_default_context(cadata=None if ca is None else _text(ca))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    openssl.limit_groups(context)
    context.options |= ssl.OP_NO_RENEGOTIATION  # In the middle of what is said, for nothing.
    context.minimum_version = _VERSIONS[min_version]
    if cert:
        load_pair(context, cert, key)
    return context


def upstream_context(
    tls: UpstreamTls, contents: Mapping[str, bytes], alpn: Sequence[str] = ("http/1.1",)
) -> ssl.SSLContext:
    """A context for connections to instances. `contents`: of the files that are named; `alpn`:
    protocols, the best one first. OSError or KeyError when there can be none."""
    context = client_context(
        contents[tls.ca] if tls.ca else None,
        contents[tls.cert] if tls.cert else b"",
        contents[tls.key] if tls.cert else b"",
        verify=tls.verify,
        min_version=tls.min_version,
    )
    # Which service it is says more than a host name: `identity.py`, when the handshake is done.
    context.check_hostname = context.check_hostname and not tls.trust_domain
    context.set_alpn_protocols(list(alpn))
    return context


def weak_suite(connection: ssl.SSLObject) -> str:
    """The suite of a connection, if HTTP/2 prohibits it (RFC 9113 §9.2.2): of TLS 1.2, and without
    a key of its own for each session, or without authenticated encryption; else nothing."""
    suite = connection.cipher()
    if suite is None or connection.version() != "TLSv1.2":
        return ""
    name = suite[0]
    own_key = name.startswith(("ECDHE-", "DHE-"))
    return "" if own_key and any(one in name for one in _AUTHENTICATED) else name


def peer_certificates(connection: ssl.SSLObject) -> list[bytes]:
    """The certificates that the other side has shown, as DER, its own first; empty = none. Of a
    session that was resumed only its own is known."""
    own = connection.getpeercert(binary_form=True)
    if own is None:
        return []
    internal: Any = connection
    if sys.version_info >= (3, 13):
        chain = internal.get_unverified_chain()
    else:
        found = internal._sslobj.get_unverified_chain() or ()
        chain = [one.public_bytes(_DER) for one in found]
    return [own, *(one for one in chain if one != own)]


def trust(context: ssl.SSLContext, ca: bytes) -> None:
    """Believe what these authorities have signed, those in the middle of a chain, too.
    ssl.SSLError when there is none."""
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=_text(ca))


def load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Load a certificate and its key, both PEM. ssl.SSLError for what OpenSSL does not take."""
    with ExitStack() as files:
        cert_file, key_file = (files.enter_context(_in_memory(one)) for one in (cert, key))
        # A password is always given: without one OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert_file, key_file, password="")


def reason(error: OSError) -> str:
    """The words of an error of OpenSSL, without the names of its functions and lines."""
    named = getattr(error, "reason", None)
    if named:
        return str(named).lower().replace("_", " ")
    return re.sub(r"^\[\w+\] | \(_ssl\.c:\d+\)$", "", str(error.strerror or error.args[-1]))


def _text(pem: bytes) -> str:
    """PEM as OpenSSL looks at it: what is in no block, comments for example, may be anything."""
    return pem.decode("ascii", "backslashreplace")


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The name of a file with this content on no disk: `ssl` takes certificates from files only."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:  # ≤ 1000
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
