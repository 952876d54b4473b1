"""The contract of providers, run over the catalogue. No registry runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.registry.base import Provider
from proxy.settings.registry import RemoteOptions
from proxy.testing.providers import ProviderContract
from tests.support.processes import free_port

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "dns": {"servers": (f"127.0.0.1:{free_port()}",), "services": {"users": "users.internal:80"}},
    "file": {"path": "{directory}/instances.yaml"},
    "docker": {"endpoints": ("unix:/nowhere/docker.sock",)},
    "kubernetes": {"endpoints": ("http://127.0.0.1:1",)},
    "static": {},
}
"""Keys of those that are not reached by URLs, for a registry that is not there. "{directory}" in a
text is an empty directory."""


class TestProviders(ProviderContract):
    @pytest.fixture(params=sorted(PROVIDERS))
    def name(self, request: pytest.FixtureRequest) -> str:
        chosen: str = request.param
        return chosen

    @pytest.fixture
    def provider(self, name: str, tmp_path: Path) -> Provider:
        """Built outside any event loop, for a registry that is down."""
        kind = registry_options(name)
        if issubclass(kind, RemoteOptions):
            example: Mapping[str, Any] = {"endpoints": (f"http://127.0.0.1:{free_port()}",)}
        else:
            example = EXAMPLES[name]
        keys = {
            key: value.format(directory=tmp_path) if isinstance(value, str) else value
            for key, value in example.items()
        }
        self.options = kind(**keys)
        built: Provider = load(PROVIDERS, name)(self.options)
        return built

    def test_a_provider_bears_its_catalogue_name(self, name: str, provider: Provider) -> None:
        assert provider.name == name

    def test_a_word_that_no_provider_takes_is_an_error(self, provider: Provider) -> None:
        with pytest.raises(TypeError, match="unexpected"):
            type(provider)(self.options, tming=None)  # type: ignore[call-arg]
