"""Consul's keys and values, in which others register."""
