"""Fixtures of Fairlead's, for `test_plugins.py`."""

pytest_plugins = ["proxy.testing.fixtures"]
