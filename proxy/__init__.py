"""Fairlead: a server-side service-discovery reverse proxy."""

__version__ = "0.1.0"
