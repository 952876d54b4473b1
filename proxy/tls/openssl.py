"""Abilities of OpenSSL that Python's `ssl` does not offer, by way of `ctypes`.

* **Groups** for the key exchange. Those by default include finite fields: a client that offers
  ffdhe8192 alone takes 0.15 s of CPU with one message, in which nobody else is served.
* **Ticket keys** that several processes share, so that a session is resumed in each of them. A
  ticket must be good under one policy only: one that another listener gave without asking for a
  certificate would let clients in everywhere. OpenSSL's session id context is for that, but
  Python 3.13 sets it anew for each connection, so the policy goes into the keys themselves.
* **The session cache**, which holds nothing that tickets do not, is switched off.

A context of `ssl` holds a pointer to OpenSSL's right behind the head that every object has. Whether
all of this works is tried once in each process (`unavailable`); where it does not, contexts work as
Python made them.
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import hashlib
import ssl
import sys
from functools import cache
from typing import Final

GROUPS: Final = ("X25519MLKEM768:X25519:P-256:P-384", "X25519:P-256:P-384", "P-256:P-384")
"""The first that OpenSSL knows counts: version 3.5 brought what quantum computers cannot undo, and
where FIPS 140 is enforced, X25519 may be missing."""

TICKET_KEYS: Final = 80
"""Bytes: a name (16), an HMAC key (32) and an AES key (32)."""

_NEWEST: Final = (3, 14)
"""Version of Python up to which the place of the pointer is known."""

_SET_SESSION_CACHE_MODE, _SET_TICKET_KEYS, _SET_GROUPS_LIST = 44, 59, 92
"""Commands of SSL_CTX_ctrl (openssl/ssl.h)."""


class _OpenSSL:
    """The functions of the OpenSSL that `ssl` uses."""

    def __init__(self) -> None:
        """AttributeError or OSError where they cannot be had."""
        library = ctypes.CDLL(_ssl.__file__)
        self.ctrl = library.SSL_CTX_ctrl
        self.ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
        self.ctrl.restype = ctypes.c_long
        self.get_options = library.SSL_CTX_get_options
        self.get_options.argtypes = (ctypes.c_void_p,)
        self.get_options.restype = ctypes.c_uint64
        self.clear_error = library.ERR_clear_error
        self.clear_error.argtypes = ()
        self.clear_error.restype = None

    def limit(self, context: ssl.SSLContext) -> bool:
        """Allow the groups above alone."""
        pointer = _pointer(context)
        done = any(self.ctrl(pointer, _SET_GROUPS_LIST, 0, one.encode()) == 1 for one in GROUPS)
        self.clear_error()  # Of a group that is not known: `ssl` would take it for its own.
        return done

    def share(self, context: ssl.SSLContext, keys: bytes, session_context: bytes) -> bool:
        """Set the ticket keys for a policy, and keep no cache."""
        pointer = _pointer(context)
        self.ctrl(pointer, _SET_SESSION_CACHE_MODE, 0, None)
        if not keys:
            return True
        own = hashlib.shake_256(keys + session_context).digest(TICKET_KEYS)
        return bool(self.ctrl(pointer, _SET_TICKET_KEYS, TICKET_KEYS, own) == 1)


def _pointer(context: ssl.SSLContext) -> int | None:
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value


def limit_groups(context: ssl.SSLContext) -> None:
    """Let key exchanges use the groups above alone; no effect where that is unavailable."""
    library = _tried()[0]
    if library is not None:
        library.limit(context)


def share_sessions(context: ssl.SSLContext, keys: bytes, session_context: bytes) -> None:
    """Let sessions be resumed by other contexts with the same `keys` (80 bytes; empty = by this
    context alone) and the same `session_context`, which says what policy it is. No effect where
    that is unavailable: the context has keys of its own then."""
    if keys and (len(keys) != TICKET_KEYS or not session_context):
        raise ValueError(f"ticket keys are {TICKET_KEYS} bytes, and go with a session context")
    library = _tried()[0]
    if library is not None:
        library.share(context, keys, session_context)


def unavailable() -> str:
    """The reason why contexts are as Python makes them; "" = everything works."""
    return _tried()[1]


@cache  # ≤ 1 KiB
def _tried() -> tuple[_OpenSSL | None, str]:
    """The functions, or the reason why they are not used."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] > _NEWEST:
        return None, f"Python {sys.version.split()[0]} is not known to keep its contexts in place"
    try:
        library = _OpenSSL()
    except (AttributeError, OSError) as error:
        return None, f"OpenSSL cannot be called: {error}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Options are read by both ways; whatever is not a context of OpenSSL would hardly agree.
    if library.get_options(_pointer(context)) != context.options & 2**64 - 1:
        return None, "the contexts of `ssl` are not where they were"
    problem = _problem(library)
    return (None, problem) if problem else (library, "")


# ------------------------------------------------------------------------------ self-test


def _problem(library: _OpenSSL) -> str:
    """The reason why the functions do not do what they are for; "" = they do.

    The handshakes are anonymous, so that they need no certificate. Where OpenSSL has no anonymous
    suites there is nothing to try, and what the functions return is believed.
    """
    plain = _server()
    if not library.limit(plain):
        return "groups cannot be set"
    client = _client()
    if _handshake(plain, client) is None:
        return ""
    if _handshake(plain, _client("secp521r1")) is not None:
        return "groups have no effect"
    keys = bytes(TICKET_KEYS)
    one, same, other = _server(), _server(), _server()
    for server, policy in ((one, b"1"), (same, b"1"), (other, b"2")):
        if not library.share(server, keys, policy):
            return "ticket keys cannot be set"
    first = _handshake(one, client)
    session = first.session if first is not None else None
    if not _resumed(_handshake(same, client, session)):
        return "ticket keys have no effect"
    if _resumed(_handshake(other, client, session)):
        return "tickets pass from one policy to another"
    return ""


def _server() -> ssl.SSLContext:
    return _anonymous(ssl.PROTOCOL_TLS_SERVER)


def _client(curve: str = "") -> ssl.SSLContext:
    context = _anonymous(ssl.PROTOCOL_TLS_CLIENT)
    if curve:
        context.set_ecdh_curve(curve)
    return context


def _anonymous(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with contextlib.suppress(ssl.SSLError):  # There is none of these suites: no handshake, then.
        context.set_ciphers("AECDH:@SECLEVEL=0")
    return context


def _handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLObject | None:
    """The client's end of a handshake in memory, or None when it fails."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, session=session)
    theirs = server.wrap_bio(up, down, server_side=True)
    for end in (ours, theirs, ours, theirs, ours):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            return None
    return ours


def _resumed(end: ssl.SSLObject | None) -> bool:
    return end is not None and bool(end.session_reused)
