"""The provider that tests move by hand keeps the contract of providers, too."""

from __future__ import annotations

import pytest

from proxy.registry.base import Provider
from proxy.testing.providers import ProviderContract
from tests.support.manual_provider import ManualProvider


class TestManualProvider(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        provider = ManualProvider()
        provider.last_error = "nobody has told it anything"
        return provider
