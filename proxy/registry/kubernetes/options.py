"""Keys of `registry:` for Kubernetes."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Final

import msgspec

from proxy.settings.addresses import ENDPOINT
from proxy.settings.declare import Distinct
from proxy.settings.read import SECRET, TEXT, choice
from proxy.settings.registry import RegistryOptions, RegistryTls, Tls, TokenFile

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds the token of its account and the cluster's authority."""


class Options(RegistryOptions, frozen=True, kw_only=True):
    """One namespace of a cluster, and how its API server is reached."""

    type: ClassVar[str] = "kubernetes"

    endpoints: Annotated[
        tuple[str, ...],
        ENDPOINT,
        Distinct(),
        "`https://host:port` of each API server; else the one of the cluster that the proxy runs"
        " in, with the token and the authority that pods are given.",
    ] = ()
    token: Annotated[str, SECRET, "Bearer token of an account."] = ""
    token_file: TokenFile = None
    tls: Tls = None
    namespace: Annotated[str, TEXT, "Namespace whose services are followed."] = "default"
    port: Annotated[str, TEXT, "Name of the port that is used of services with several ones."] = (
        "http"
    )
    selector: Annotated[
        str, TEXT, "Label selector that the slices of services must fit; empty = all."
    ] = ""
    address_type: Annotated[
        str,
        choice(("IPv4", "IPv6", "FQDN"), "a type of addresses"),
        "Kind of addresses that is used, since pods may have several.",
    ] = "IPv4"

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        if self.endpoints:
            return self.endpoints
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        host = f"[{host}]" if ":" in host else host
        return (f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}",)

    def in_place(self) -> Options:
        """Options with what pods are given, where nothing else is said."""
        if self.endpoints:
            return self
        token_file = self.token_file or (None if self.token else f"{_ACCOUNT}/token")
        tls = self.tls or RegistryTls(ca=f"{_ACCOUNT}/ca.crt")
        return msgspec.structs.replace(self, token_file=token_file, tls=tls)
