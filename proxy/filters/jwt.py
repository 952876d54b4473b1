"""`jwt`: requests with a JSON Web Token (RFC 7519) whose signature, time, issuer and audience hold.

What a token says of itself decides nothing: its algorithm must be one that the file names, and one
that its key is for by the key's own type. So no token can name `none`, or have a public key taken
for a secret (RFC 8725 §3.1). Of PyJWT only the signature is asked; claims are checked here, by the
worker's clock. A signature that was right is remembered for as long as the keys are the same.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self

import aiohttp
import msgspec
import structlog

from proxy.errors import AUTH_UNAVAILABLE, UNAUTHORISED, Refused
from proxy.filters.base import Context, Filter, FilterOptions
from proxy.filters.forward_auth import URL_OR_NONE
from proxy.filters.headers import name_read
from proxy.filters.message import Request, Response
from proxy.filters.watched import LARGEST, WatchedFile, resolved_file
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import DURATION, POSITIVE, TEXT, choice

_log = structlog.get_logger()

_FITTING: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("oct", ""): ("HS256", "HS384", "HS512"),
}
"""Type and curve of a key → the algorithms that it is for."""
_ALGORITHMS: Final = tuple(name for names in _FITTING.values() for name in names)
_LONGEST: Final = 16 * 1024
"""Bytes of a token; half of what a head may have."""
_SHORT: Final = 2 * 1024
"""Bytes of a token that is remembered."""
_REMEMBERED: Final = 1000
_MOST_KEYS: Final = 100
_SHORTEST_RSA: Final = 2048
_SHORTEST_SECRET: Final = 32
"""Bytes: of a digest of SHA-256 (RFC 7518 §3.2)."""
_REFRESH: Final = 300.0
"""Seconds after which keys of a URL are asked for again."""
_SOON: Final = 5.0
"""Seconds between two questions for a key that nobody knows: whoever invents names of keys makes
no more of them."""
_AT_ONCE: Final = 1.0
"""Seconds between two questions as long as there are no keys at all."""
_WAIT: Final = 5.0
"""Seconds that a question may take."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_NO_VALUE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Controls, breaks of lines, and halves of characters. What else cannot be seen has its place in
names: a Persian one may hold a joiner."""


class Key(NamedTuple):
    """A key that signatures are verified with."""

    id: str
    algorithms: tuple[str, ...]
    key: Any


def keys_of(content: bytes) -> tuple[Key, ...]:
    """The keys of a set (RFC 7517) that are for signatures and long enough; what is no key does not
    harm the others (§5). Raises `ValueError` if there are none."""
    import jwt

    try:
        given = json.loads(content)["keys"][:_MOST_KEYS]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("is no set of keys (JWKS)") from None
    found = [key for one in given if (key := _key_of(one, jwt)) is not None]
    if not found:
        raise ValueError("has no key that can be used for signatures")
    return tuple(found)


def _key_of(one: Any, jwt: Any) -> Key | None:
    try:
        kind = str(one.get("kty"))
        fitting = _FITTING.get((kind, str(one.get("crv", "")) if kind in ("EC", "OKP") else ""), ())
        if "alg" in one:
            fitting = tuple(name for name in fitting if name == one["alg"])
        if one.get("use", "sig") != "sig" or "verify" not in one.get("key_ops", "verify"):
            return None
        key = jwt.PyJWK(one, algorithm=fitting[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError):
        return None
    if kind == "RSA" and key.key_size < _SHORTEST_RSA:
        return None
    if kind == "oct" and len(key) < _SHORTEST_SECRET:
        return None
    return Key(str(one.get("kid", "")), fitting, key)


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `jwt`."""

    jwks_file: Annotated[str, TEXT, "File with the keys (JWKS), read again when it changes."] = ""
    jwks_url: Annotated[
        str,
        URL_OR_NONE,
        "Where the keys are fetched: every five minutes, and for a key that is not known.",
    ] = ""
    algorithms: Annotated[
        tuple[str, ...],
        choice(_ALGORITHMS, "an algorithm"),
        Distinct(),
        "Algorithms that a token may be signed with.",
    ]
    issuer: Annotated[str, TEXT, "Value that `iss` must have; without it any."] = ""
    audience: Annotated[str, TEXT, "Value that `aud` must have, or hold; without it any."] = ""
    leeway: Annotated[float, DURATION, "How far clocks may be apart."] = 30.0
    timeout: Annotated[float, POSITIVE, "How long fetching keys may take."] = _WAIT
    claims_to_headers: Annotated[
        dict[str, str],
        name_read(True),
        "Claim → field that tells the instance its value; no client can set these fields.",
    ] = {}  # noqa: RUF012 - a struct's default is copied

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        if bool(self.jwks_file) == bool(self.jwks_url) and report.sound(
            given.at("jwks_file"), given.at("jwks_url")
        ):
            report.complain(given.path, "needs keys; allowed: either jwks_file or jwks_url")
        if "algorithms" in given and not self.algorithms:
            message = f"is empty; allowed: some of {', '.join(_ALGORITHMS)}"
            report.complain(given.at("algorithms"), message)
        if not self.jwks_file:
            return self
        path = resolved_file(self.jwks_file, given.at("jwks_file"), directory, report, keys_of)
        return msgspec.structs.replace(self, jwks_file=path)


class Keys:
    """Owns the keys in force: those of a file that is followed, or of a URL."""

    def __init__(self, options: Options) -> None:
        self._url = options.jwks_url
        self._timeout = options.timeout
        self._file = WatchedFile(options.jwks_file, keys_of) if options.jwks_file else None
        self._fetched: tuple[Key, ...] = ()  # ≤ 1 MiB
        self._fetching: asyncio.Task[None] | None = None
        self._asked = -math.inf
        """When it was asked for keys last."""
        self._problem = ""
        self._timer: asyncio.TimerHandle | None = None
        self._context: Context

    def open(self, context: Context) -> None:
        """Begin to follow them."""
        self._context = context
        if self._file is not None:
            self._file.open(context)
        else:
            self._begin()

    def close(self) -> None:
        """Follow them no more."""
        if self._file is not None:
            self._file.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()

    @property
    def known(self) -> tuple[Key, ...]:
        """The keys; none as long as they were never to be had."""
        return self._fetched if self._file is None else self._file.value or ()

    @property
    def may_be_new(self) -> bool:
        """Whether it is worth asking for a key that is not known."""
        if self._file is not None:
            return False
        return self._fetching is not None or self._context.now() >= self._asked + self._pause

    @property
    def _pause(self) -> float:
        return _SOON if self._fetched else _AT_ONCE

    async def renewed(self) -> None:
        """Wait until the keys were asked for once more; many may wait for one question."""
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            if self._timer is not None:
                self._timer.cancel()
            self._asked = self._context.now()
            self._fetching = self._context.loop.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        problem = ""
        try:
            self._fetched = keys_of(await self._download())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            problem = f"cannot be fetched ({type(error).__name__})"
        except ValueError as error:
            problem = str(error)
        finally:
            self._fetching = None
        after = self._pause if problem else _REFRESH
        self._timer = self._context.loop.call_later(after, self._begin)
        if problem != self._problem:
            event = "filter_keys_unusable" if problem else "filter_keys_usable_again"
            _log.warning(event, problem=problem)
        self._problem = problem

    async def _download(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=self._context.connector(1)) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"was answered with {answer.status}")
            content = b""
            async for piece in answer.content.iter_any():  # ≤ 65536
                content += piece
                if len(content) > LARGEST:
                    raise ValueError("is too large")
            return content


class Jwt(Filter):
    """Refusal of requests without a token that holds."""

    options: ClassVar[type[FilterOptions] | None] = Options
    authenticates: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("jwt",)
    meaning: ClassVar[str] = "Requests need a signed token (JWT); without one 401."

    def __init__(self, options: Options) -> None:
        import jwt

        self._algorithms = frozenset(options.algorithms)
        self._issuer, self._audience = options.issuer, options.audience
        self._leeway = options.leeway
        self._fields = options.claims_to_headers
        self._keys = Keys(options)
        self._signatures = jwt.PyJWS()
        self._wrong: type[Exception] = jwt.PyJWTError
        self._signed: dict[bytes, dict[str, Any]] = {}  # ≤ _REMEMBERED * 8 KiB
        """Claims of tokens whose signature was verified, by their digests."""
        self._signed_by: tuple[Key, ...] = ()  # ≤ 1 MiB
        self.time_limit = options.timeout + 1.0
        self._context: Context

    def open(self, context: Context) -> None:
        """See `Filter`."""
        self._context = context
        for name in self._fields.values():  # ≤ 1000
            context.claim(name)
        self._keys.open(context)

    def close(self) -> None:
        """See `Filter`."""
        self._keys.close()

    def on_request(self, request: Request) -> Any:
        """See `Filter`."""
        lines = request.headers.lines("Authorization")
        for name in self._fields.values():  # ≤ 1000
            request.headers.remove(name)
        scheme, _, token = lines[0].partition(" ") if len(lines) == 1 else ("", "", "")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or len(token) > _LONGEST:
            return _refusal("", "no token, or several")
        try:
            claims = self._remembered(token)
            if claims is not None:
                self._let_pass(request, claims)
                return None
            algorithm, id = self._header(token)
            if self._keys.may_be_new and not self._candidates(algorithm, id):
                return self._wait(request, token, algorithm, id)
            return self._decide(request, token, algorithm, id)
        except ValueError as error:
            return _refusal("invalid_token", str(error))

    async def _wait(self, request: Request, token: str, algorithm: str, id: str | None) -> Any:
        await self._keys.renewed()
        try:
            return self._decide(request, token, algorithm, id)
        except ValueError as error:
            return _refusal("invalid_token", str(error))

    def _header(self, token: str) -> tuple[str, str | None]:
        """Algorithm and key's id that a token names. Raises `ValueError`."""
        if not _TOKEN.fullmatch(token):
            raise ValueError("the token is no JWT")
        try:
            header = self._signatures.get_unverified_header(token)
        except (self._wrong, RecursionError):
            raise ValueError("the token's header cannot be read") from None
        algorithm, id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise ValueError("the token's algorithm is not allowed")
        if "crit" in header or "b64" in header:
            raise ValueError("the token demands what is not known here")  # RFC 7515 §4.1.11
        if id is not None and not isinstance(id, str):
            raise ValueError("the token's key has no name")
        return algorithm, id

    def _candidates(self, algorithm: str, id: str | None) -> list[Key]:
        """The keys that a token may be signed with."""
        return [
            key
            for key in self._keys.known
            if algorithm in key.algorithms and (id is None or key.id == id)
        ]

    def _decide(self, request: Request, token: str, algorithm: str, id: str | None) -> None:
        """Let a request pass, or raise `ValueError`."""
        if not self._keys.known:
            raise Refused(AUTH_UNAVAILABLE, "there are no keys to verify tokens with")
        payload = None
        for key in self._candidates(algorithm, id):  # ≤ _MOST_KEYS
            try:
                payload = self._signatures.decode(token, key.key, algorithms=[algorithm])
                break
            except self._wrong:
                continue
        if payload is None:
            raise ValueError("the token's signature fits no key")
        try:
            claims = json.loads(payload)
        except RecursionError:
            raise ValueError("the token's claims cannot be read") from None
        if not isinstance(claims, dict):
            raise ValueError("the token has no claims")
        self._let_pass(request, claims)
        if len(token) <= _SHORT:
            if len(self._signed) >= _REMEMBERED:
                del self._signed[next(iter(self._signed))]
            self._signed[_digest(token)] = claims

    def _remembered(self, token: str) -> dict[str, Any] | None:
        """The claims of a token whose signature was verified before, with the keys in force."""
        if self._keys.known is not self._signed_by:
            self._signed_by = self._keys.known
            self._signed.clear()
        return self._signed.get(_digest(token))

    def _let_pass(self, request: Request, claims: dict[str, Any]) -> None:
        """Let a request pass whose token is signed, if its claims hold; else `ValueError`."""
        self._check(claims)
        for claim, name in self._fields.items():  # ≤ 1000
            if claims.get(claim) is not None:
                request.headers.set(name, _as_field(claim, claims[claim]))

    def _check(self, claims: dict[str, Any]) -> None:
        """Raise `ValueError` if the token is not for now, or not for us."""
        now = self._context.wall()
        if now - self._leeway >= _time(claims, "exp", None):
            raise ValueError("the token has expired")
        if now + self._leeway < _time(claims, "nbf", -math.inf):
            raise ValueError("the token is not valid yet")
        if self._issuer and claims.get("iss") != self._issuer:
            raise ValueError("the token is of another issuer")
        audience = claims.get("aud")
        held = audience if isinstance(audience, list) else [audience]
        if self._audience and self._audience not in held:
            raise ValueError("the token is for another audience")


def _time(claims: dict[str, Any], name: str, otherwise: float | None) -> float:
    value = claims.get(name, otherwise)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # NaN
        raise ValueError(f"the token's {name} is missing or no time")
    return value


def _as_field(claim: str, value: Any) -> str:
    """A claim as the value of a field: UTF-8, members of a list behind commas, what is no text as
    JSON."""
    members = value if isinstance(value, list) else [value]
    text = ",".join([one if isinstance(one, str) else json.dumps(one) for one in members])
    if _NO_VALUE.search(text):
        raise ValueError(f"the token's {claim} has characters that no field may have")
    return text.encode("utf-8").decode("latin-1")


def _digest(token: str) -> bytes:
    return blake2b(token.encode("latin-1"), digest_size=32).digest()


def _refusal(error: str, detail: str) -> Response:
    challenge = f'Bearer error="{error}"' if error else "Bearer"  # RFC 6750 §3
    headers = {"WWW-Authenticate": challenge}
    return Response(fault=UNAUTHORISED, detail=detail, headers=headers)
