"""Request fields in which only a proxy in front may speak: of the client it has before it.

Whose address it is, which certificate it showed, who has logged in, and what it had asked for
before somebody rewrote it: programs believe such fields, since a proxy is said to have set them.
From whoever is no such proxy they are a claim about itself, and go no further. The names are
those that nginx, HAProxy, Envoy, Traefik, Apache, the clouds and the content networks set, and
those that common frameworks look for; docs/forwarding.md lists them by what they say.
"""

from __future__ import annotations

import re
from typing import Final

_BEGINNING: Final = re.compile(
    rb"""
    # Whose address.
      forwarded(-.*)? | x-forward(ed)?(-.*)? | x-real-.* | (x-)?remote-(ip|addr|address|host|port)
    | true-client-.* | fastly-client-.* | cf-pseudo-ipv4 | x-appengine-user-ip | x-proxyuser-ip
    | x-envoy-.* | wl-proxy-.* | cloudfront-(viewer|forwarded)-.*
    # Over which kind of connection, with which certificate.
    | client-cert(-.*)? | x-client-(cert|verif|dn|[si]-dn|subject|issuer|serial|fingerprint).*
    | (x-)?(ssl|tls|mtls)-.* | x-amzn-m?tls-.* | x-arr-(clientcert|ssl) | fastly-ssl
    | front-end-https
    # What was asked for.
    | x-original-.* | x-rewrite-(url|uri) | x-replaced-path | x-(url-)?scheme | x-host
    | x-http-host-override | x-accel-.* | x-sendfile-type | cf-visitor
    # Who has logged in.
    | (x-)?remote-(user|name|email|groups?|extra-.*) | x-auth-request-.* | x-webauth-.*
    | x-authenticated-.* | x-authentik-.* | x-goog-authenticated-user-.* | x-amzn-oidc-.*
    | x-ms-client-principal(-.*)? | tailscale-user-.* | cf-access-authenticated-user-.*
    """,
    re.VERBOSE,
)
_ENDING: Final = re.compile(
    rb"(^|-)((client(-connection)?|connecting|real|originating|src|socket)-?ip(v[46])?"
    rb"|forwarded-(for|proto|host))$"
)
"""Endings of names that networks put a name of their own in front of: `CF-Connecting-IP`,
`X-Cluster-Client-IP`."""
_LONGEST_ENDING: Final = 32
"""Bytes, more than any of these has: a name as long as a head is not searched whole."""
_configured: Final[set[bytes]] = set()  # ≤ 1 KiB + 256 B per listener
"""Further ones: fields that some listener's `client_ip` is read from."""
_PUNCTUATION: Final = re.compile(rb"[^0-9a-z-]")


def is_claim(name: bytes) -> bool:
    """Whether a field, by its name in lower case, is for a trusted proxy alone to set."""
    return (
        _BEGINNING.fullmatch(name) is not None
        or _ENDING.search(name[-_LONGEST_ENDING:]) is not None
        or name in _configured
    )


def add_claim(name: bytes) -> bool:
    """Whether fields of this name, in lower case, were something else until now."""
    new = not is_claim(name)
    _configured.add(name)
    return new


def hyphened(name: bytes) -> bytes:
    """The name in lower case, with hyphens for all punctuation. Programs that make variables of
    fields write `_` for it, PHP for a dot, some servers for any: to them `X.Real.IP` is
    `X-Real-IP`."""
    return _PUNCTUATION.sub(b"-", name)
