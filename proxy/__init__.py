"""Fairlead: a server-side service-discovery reverse proxy."""

__version__ = "0.1.0"
PRODUCT = "fairlead"
"""Whose package this is: others have one of this name."""
