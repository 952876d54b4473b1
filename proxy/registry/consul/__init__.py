"""Consul: its catalogue and its checks."""
