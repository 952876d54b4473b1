"""The provider that tests talk through keeps the promises of every provider."""

from __future__ import annotations

import pytest

from tests.contract.test_providers import (  # noqa: F401  # they are run here
    test_a_provider_yields_nothing_that_it_does_not_know,
    test_cancelling_the_reader_ends_every_task,
    test_close_before_the_watch,
    test_close_ends_the_watch_and_every_task,
    test_status_before_the_first_contact,
)
from tests.support.manual_provider import ManualProvider


@pytest.fixture
def provider() -> ManualProvider:
    provider = ManualProvider()
    provider.last_error = "nobody has told it anything"
    return provider
