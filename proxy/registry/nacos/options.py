"""Keys of `registry:` for Nacos."""

from __future__ import annotations

from typing import Annotated, ClassVar

from proxy.settings.addresses import URL
from proxy.settings.declare import Distinct
from proxy.settings.read import POSITIVE, SWITCH, TEXT
from proxy.settings.registry import RemoteOptions


class Options(RemoteOptions, frozen=True, kw_only=True):
    """One group in one namespace of a cluster of Nacos."""

    type: ClassVar[str] = "nacos"
    form: ClassVar[str] = "http://host:port"
    in_path: ClassVar[bool] = True

    endpoints: Annotated[
        tuple[str, ...],
        URL,
        Distinct(),
        "`http://host:8848` of each member, with the context path if that is not `/nacos`."
        " Required.",
    ] = ()
    namespace: Annotated[str, TEXT, "Id of the namespace."] = "public"
    group: Annotated[str, TEXT, "Group of the services."] = "DEFAULT_GROUP"
    clusters: Annotated[
        tuple[str, ...], TEXT, Distinct(), "Clusters to take instances of; none = all."
    ] = ()
    services: Annotated[
        tuple[str, ...],
        TEXT,
        Distinct(),
        "Services to ask for; none = all, whose names only gRPC and the API v1 of Nacos tell.",
    ] = ()
    interval: Annotated[
        float,
        POSITIVE,
        "Time between two questions for all services, or for their names where changes are pushed.",
    ] = 3.0
    push: Annotated[
        bool,
        SWITCH,
        "Have changes pushed, over gRPC at the port of `endpoints` + 1000; a member that does not"
        " serve it is asked over HTTP.",
    ] = True
