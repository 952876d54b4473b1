"""`basic_auth`: users with passwords (RFC 7617), whose hashes stand in the file or in their own.

A hash is slow on purpose, so it is computed in a thread; passwords that were right are remembered
as keyed digests, beside the hash that they fit: a user whose line changes is asked anew.
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

import msgspec

from proxy.errors import AUTH_UNAVAILABLE, UNAUTHORISED, Refused
from proxy.filters.base import Context, Filter, FilterOptions
from proxy.filters.headers import name_read
from proxy.filters.message import Request, Response
from proxy.filters.watched import WatchedFile, resolved_file
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import TEXT, Read

_HASH: Final = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}|\$argon2(id|i|d)\$[^\s:]+")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]+")
"""A user's name: without control characters (RFC 7617 §2), which no field may have."""
_DEAREST: Final = 14
"""Highest cost of bcrypt: a second of one CPU. One more would be two."""
_REMEMBERED: Final = 1000
"""Right passwords that are remembered, at 150 bytes each."""
_LONGEST: Final = 1024
"""Bytes of user and password. People type less."""
_BCRYPT: Final = 72
"""Bytes of a password that bcrypt looks at; programs that make hashes cut the rest off."""


def users_in(lines: Iterable[str]) -> dict[str, str]:
    """The users of `NAME:HASH` lines. Raises `ValueError`."""
    users: dict[str, str] = {}
    for line in lines:  # ≤ 10000
        text = line.strip()
        if text and not text.startswith("#"):
            name, _, hashed = text.partition(":")
            match = _HASH.fullmatch(hashed)
            if not _NAME.fullmatch(name) or match is None:
                raise ValueError("has a line that is not NAME:HASH, with bcrypt or argon2")
            if int(match["cost"] or 0) > _DEAREST:
                raise ValueError(f"has a bcrypt hash whose cost is above {_DEAREST}")
            users[name] = hashed
    return users


def _users_of_file(content: bytes) -> dict[str, str]:
    return users_in(content.decode("utf-8").splitlines())


def _parse_user(text: str) -> str:
    try:
        users_in([text])
    except ValueError:
        raise ValueError("is not NAME:HASH, with bcrypt or argon2") from None
    return text


_USER: Final = Read(
    _parse_user, "text", "a line of `htpasswd -B`, such as ann:$2y$05$...", secret=True
)


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `basic_auth`."""

    users: Annotated[
        tuple[str, ...], _USER, "Lines `NAME:HASH` with bcrypt or argon2, as `htpasswd -B` writes."
    ] = ()
    users_file: Annotated[str, TEXT, "A file of such lines, read again when it changes."] = ""
    realm: Annotated[str, TEXT, "What clients are told that the password is for."] = "Restricted"
    header: Annotated[
        str,
        name_read(True),
        "Field that tells the instance the user's name; no client can set it. Without it none.",
    ] = ""

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        if '"' in self.realm or "\\" in self.realm or not self.realm.isascii():
            report.complain(given.at("realm"), "is not plain text; allowed: ASCII without quotes")
        if not self.users and not self.users_file and report.sound(given.at("users")):
            report.complain(given.path, "has no users; allowed: users, users_file, or both")
        if not self.users_file:
            return self
        place = given.at("users_file")
        path = resolved_file(self.users_file, place, directory, report, _users_of_file)
        return msgspec.structs.replace(self, users_file=path)


class BasicAuth(Filter):
    """Refusal of requests without a user's password. Owns what it remembers of right ones."""

    options: ClassVar[type[FilterOptions] | None] = Options
    authenticates: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("bcrypt", "argon2")
    meaning: ClassVar[str] = "Users with passwords; without one 401."

    def __init__(self, options: Options) -> None:
        self._own = users_in(options.users)
        self._file: WatchedFile[dict[str, str]] | None = None
        if options.users_file:
            self._file = WatchedFile(options.users_file, _users_of_file)
        self._challenge = f'Basic realm="{options.realm}", charset="UTF-8"'
        self._header = options.header
        self._secret = os.urandom(32)
        self._right: dict[bytes, None] = {}  # ≤ _REMEMBERED * 150 B
        self._context: Context

    def open(self, context: Context) -> None:
        """See `Filter`."""
        self._context = context
        if self._header:
            context.claim(self._header)
        if self._file is not None:
            self._file.open(context)

    def close(self) -> None:
        """See `Filter`."""
        if self._file is not None:
            self._file.close()

    def on_request(self, request: Request) -> Any:
        """See `Filter`."""
        users = self._own
        if self._file is not None:
            if self._file.value is None and not users:
                raise Refused(AUTH_UNAVAILABLE, "the file of users could not be read")
            users = {**(self._file.value or {}), **users}
        given = _credentials(request.headers.lines("Authorization"))
        if given is None:
            return self._refusal("no user and password")
        name, password = given
        # For users that there are not as much is computed: nobody learns names by the time.
        hashed = users.get(name) or next(iter(users.values()), "")
        known = name in users
        digest = blake2b(
            b"\0".join((name.encode(), hashed.encode(), password)), digest_size=32, key=self._secret
        ).digest()
        if known and digest in self._right:
            self._pass(request, name)
            return None
        return self._verify(request, name, password, hashed, known, digest)

    async def _verify(
        self, request: Request, name: str, password: bytes, hashed: str, known: bool, digest: bytes
    ) -> Response | None:
        right = await self._context.in_thread(lambda: fits(password, hashed))
        if not (right and known):
            return self._refusal(f"the user {name!r} or the password is wrong")
        if len(self._right) >= _REMEMBERED:
            del self._right[next(iter(self._right))]
        self._right[digest] = None
        self._pass(request, name)
        return None

    def _pass(self, request: Request, name: str) -> None:
        if self._header:
            request.headers.set(self._header, name.encode("utf-8").decode("latin-1"))

    def _refusal(self, detail: str) -> Response:
        headers = {"WWW-Authenticate": self._challenge}
        return Response(fault=UNAUTHORISED, detail=detail, headers=headers)


def _credentials(lines: list[str]) -> tuple[str, bytes] | None:
    """User and password; None if there are none, or several."""
    if len(lines) != 1:
        return None
    scheme, _, encoded = lines[0].partition(" ")
    if scheme.lower() != "basic" or len(encoded) > 2 * _LONGEST:
        return None
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode("utf-8"), password) if colon and b"\0" not in name + password else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def fits(password: bytes, hashed: str) -> bool:
    """Whether a password is the one of a hash. Takes long."""
    if hashed.startswith("$2"):
        import bcrypt

        try:
            return bcrypt.checkpw(password[:_BCRYPT], hashed.encode("ascii"))
        except ValueError:
            return False
    if not hashed:
        return False
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return PasswordHasher().verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False
