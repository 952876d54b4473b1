"""Errors that a registrar raises. Each message says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class RegistrationError(Exception):
    """Base of all that a registrar raises."""


class InvalidRecord(RegistrationError, ValueError):
    """Records that no reader would accept. Nothing was written; `reasons` has all of them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class RegistryUnavailable(RegistrationError):
    """No endpoint of the registry did what was asked within the limit. They are tried again, on
    and on, as long as the registrar lives."""


class RegistryRefused(RegistrationError):
    """Every endpoint refused for a reason that waiting does not change: credentials, permissions,
    certificates, or an interface that is switched off."""
