"""The service's side: register under a lease, keep it alive, report health, leave.

async with Registrar(Record(service="users", port=8080), registry=settings):
    await serve()
"""

from proxy.register.errors import (
    InvalidRecord,
    RegistrationError,
    RegistryRefused,
    RegistryUnavailable,
)
from proxy.register.record import Record
from proxy.register.registrar import Registrar, RegistrarStatus
from proxy.register.registration import Registration
from proxy.register.reporter import HealthReporter

__all__ = [
    "HealthReporter",
    "InvalidRecord",
    "Record",
    "Registrar",
    "RegistrarStatus",
    "Registration",
    "RegistrationError",
    "RegistryRefused",
    "RegistryUnavailable",
]
