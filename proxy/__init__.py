"""Fairlead: a server-side service-discovery reverse proxy."""

__version__ = "0.1.0"
PRODUCT = "fairlead"
"""The distribution that this package belongs to: others have a package of this name."""
