"""Nacos: its services and their instances, over HTTP."""
