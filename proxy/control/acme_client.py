"""Orders of certificates from a server that speaks ACME (RFC 8555), each from its directory
to the PEM. Nothing is kept between orders: the account is found by its key.

    newAccount ─ newOrder ─ a challenge for the name ─▶ all workers answer it ─▶ the server may look
    ─ its authorization is valid ─ finalize with a request ─ the order is valid ─ certificate
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import msgspec

import proxy
from proxy import files
from proxy.control.acme import LONGEST_SAID, AcmeError, Publish
from proxy.control.acme_turns import Challenges
from proxy.messages import CertificatePair
from proxy.registry.named import MemberNames
from proxy.settings.acme import AcmeSettings
from proxy.threads import in_thread
from proxy.tls.acme import AccountKey, b64, challenge_pair, new_key, request
from proxy.tls.certificates import LARGEST_PEM, read_pair
from proxy.tls.contexts import client_context

CALL_LIMIT = 30.0
"""Seconds for one request; servers that are busy take some."""
ORDER_LIMIT = 300.0
"""Seconds for an order. Public authorities look from several places and take ten; nobody waits
for it but the other names."""
LONGEST_PAUSE = 15.0
"""Seconds between two questions whether the server is done, whatever it asks for."""
RATE_LIMITED = 3600.0
"""Seconds until the next order, where too many were made and the server does not say."""
NONCES = 5
"""Tries with a new nonce, which a server may refuse at any time (RFC 8555 §6.5)."""

_URN = "urn:ietf:params:acme:error:"


class _Problem(msgspec.Struct):
    """RFC 8555 §6.7."""

    type: str = "about:blank"
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.type.removeprefix(_URN)}: {self.detail}"


class _Directory(msgspec.Struct, rename="camel"):
    new_nonce: str
    new_account: str
    new_order: str


class _Challenge(msgspec.Struct):
    type: str
    url: str = ""
    token: str = ""
    error: _Problem | None = None


class _Authorization(msgspec.Struct):
    status: str
    challenges: list[_Challenge]


class _Order(msgspec.Struct):
    status: str
    authorizations: list[str]
    finalize: str
    certificate: str = ""
    error: _Problem | None = None


T = TypeVar("T")


async def obtain(
    settings: AcmeSettings, key: AccountKey, domain: str, kind: str, publish: Publish
) -> bytes:
    """PEM of a new certificate with its chain, and of its key. `kind`: of the challenge. Raises
    `AcmeError`."""
    try:
        async with asyncio.timeout(ORDER_LIMIT), _session(settings) as session:
            return await _Conversation(session, settings, key).order(domain, kind, publish)
    except TimeoutError:
        raise AcmeError("the server does not answer in time") from None
    except KeyError as error:
        raise AcmeError(f"an answer of the server lacks {error.args[0]}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # A request that is cut off, a certificate that does not verify, JSON that is none.
        raise AcmeError(str(error) or type(error).__name__) from error


@asynccontextmanager
async def _session(settings: AcmeSettings) -> AsyncIterator[aiohttp.ClientSession]:
    def context() -> Any:
        return client_context(settings.ca and files.read(settings.ca, LARGEST_PEM))  # type: ignore[arg-type]

    connector = aiohttp.TCPConnector(
        ssl=await in_thread(context, "read authorities"),
        resolver=MemberNames(),
        use_dns_cache=False,  # It has its own.
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=CALL_LIMIT),
        headers={"User-Agent": f"fairlead/{proxy.__version__}"},
    ) as session:
        yield session


class _Conversation:
    """Owns the nonces, and who we are to the server."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: AcmeSettings, key: AccountKey
    ) -> None:
        self._session = session
        self._settings = settings
        self._key = key
        self._nonce: str | None = None
        self._who: dict[str, Any] = {"jwk": key.public}
        self._directory: _Directory

    async def order(self, domain: str, kind: str, publish: Publish) -> bytes:
        """See `obtain`."""
        _, body = await self._ask("GET", self._settings.directory)
        self._directory = msgspec.json.decode(body, type=_Directory)
        await self._log_in()
        payload = {"identifiers": [{"type": "dns", "value": domain}]}
        headers, body = await self._post(self._directory.new_order, payload)
        place = headers["Location"]
        order = msgspec.json.decode(body, type=_Order)
        for url in order.authorizations:
            await self._prove(url, domain, kind, publish)
        order = await self._until(place, _Order, ("pending",))
        key = await in_thread(new_key, "make a key")
        if order.status == "ready":  # Of another one it says why; to finalize it is an error.
            await self._post(order.finalize, {"csr": b64(request(domain, key))})
            order = await self._until(place, _Order, ("ready", "processing"))
        if order.status != "valid":
            raise AcmeError(f"the order is {order.status}: {order.error or 'nobody says why'}")
        _, chain = await self._post(order.certificate)
        if domain not in read_pair(chain, key).names:
            raise AcmeError(f"the certificate is not for {domain}")
        return key + chain

    async def _log_in(self) -> None:
        """Find the account of the key, or make one."""
        settings, url = self._settings, self._directory.new_account
        payload: dict[str, Any] = {"termsOfServiceAgreed": True}
        if settings.email:
            payload["contact"] = [f"mailto:{settings.email}"]
        if settings.eab is not None:
            binding = self._key.bind(settings.eab.kid, settings.eab.hmac_key, url)
            payload["externalAccountBinding"] = binding
        headers, _ = await self._post(url, payload)
        self._who = {"kid": headers["Location"]}

    async def _prove(self, url: str, domain: str, kind: str, publish: Publish) -> None:
        """Have the server look whether the name leads here."""
        _, body = await self._post(url)
        authorization = msgspec.json.decode(body, type=_Authorization)
        if authorization.status == "valid":
            return
        challenge = next((one for one in authorization.challenges if one.type == kind), None)
        if challenge is None:
            raise AcmeError(f"the server offers no {kind} for {domain}")
        try:
            if not await publish(self._answer(challenge, domain)):
                raise AcmeError("not all workers have taken the challenge in time")
            await self._post(challenge.url, {})
            authorization = await self._until(url, _Authorization, ("pending",))
        finally:
            await publish(({}, {}))
        if authorization.status != "valid":
            errors = [one.error for one in authorization.challenges if one.error is not None]
            why = errors[0] if errors else "nobody says why"
            raise AcmeError(f"the authorization is {authorization.status}: {why}")

    def _answer(self, challenge: _Challenge, domain: str) -> Challenges:
        text = self._key.authorize(challenge.token)
        if challenge.type == "http-01":
            return {challenge.token: text}, {}
        return {}, {domain: CertificatePair(*challenge_pair(domain, text), (domain,), "ec")}

    async def _until(self, url: str, kind: type[T], pending: tuple[str, ...]) -> T:
        """Ask until the state is another one."""
        pause = 0.25
        while True:
            headers, body = await self._post(url)
            found: Any = msgspec.json.decode(body, type=kind)
            if found.status not in pending:
                return found  # type: ignore[no-any-return]
            pause = min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(min(retry_after(headers, time.time()) or pause, LONGEST_PAUSE))

    async def _post(self, url: str, payload: object = None) -> tuple[Mapping[str, str], bytes]:
        """Post what is signed; nothing to be told what there is (RFC 8555 §6.3)."""
        content = b"" if payload is None else msgspec.json.encode(payload)
        for left in reversed(range(NONCES)):
            if self._nonce is None:
                await self._ask("HEAD", self._directory.new_nonce)
            header = {"nonce": self._nonce, "url": url, **self._who}
            self._nonce = None  # Good for one request.
            signed = msgspec.json.encode(self._key.sign(header, content))
            try:
                return await self._ask("POST", url, signed)
            except _BadNonce:
                if not left:
                    raise
        raise AssertionError

    async def _ask(
        self, method: str, url: str, content: bytes | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        async with self._session.request(
            method,
            url,
            data=content,
            headers=None if content is None else {"Content-Type": "application/jose+json"},
            allow_redirects=False,  # What is signed is good for one URL.
        ) as response:
            self._nonce = response.headers.get("Replay-Nonce", self._nonce)
            body = await _content(response)
        if response.status >= 300:
            raise error_from(response.status, response.headers, body, url)
        return response.headers, body


class _BadNonce(AcmeError):
    """The server wants another nonce."""


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > LARGEST_PEM:
            raise AcmeError(f"the server says more than {LARGEST_PEM} bytes")
    return content


def error_from(status: int, headers: Mapping[str, str], body: bytes, url: str) -> AcmeError:
    """The error that an answer tells of, which may be a problem document (RFC 8555 §6.7)."""
    wait = retry_after(headers, time.time())
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except ValueError:
        return AcmeError(f"{url} answers {status}", wait)
    if problem.type == f"{_URN}badNonce":
        return _BadNonce(str(problem))
    limited = problem.type == f"{_URN}rateLimited"
    return AcmeError(str(problem), wait or (RATE_LIMITED if limited else 0.0))


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds until the time of `Retry-After` (RFC 9110 §10.2.3); 0 = it does not say. `now`:
    seconds since 1970."""
    said = headers.get("Retry-After", "")
    try:
        seconds = float(said) if said.isdecimal() else parsedate_to_datetime(said).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_SAID)
