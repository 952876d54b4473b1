"""One server of Eureka, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.registry.eureka.options import Options
from proxy.registry.rest import RestEndpoint, Secret, basic


class Server(RestEndpoint):
    """Owns the connections to one server."""

    def __init__(self, url: str, options: Options) -> None:
        self._username = options.username
        self._password = Secret(options.password, options.password_file)
        super().__init__(url, tls=options.tls, fields=self._shown)

    def _shown(self) -> Mapping[str, str]:
        # Without the first the answer is XML, and without the second what is sent is none.
        json = {"Accept": "application/json", "Content-Type": "application/json"}
        return {**json, **basic(self._username, self._password())}
