"""Heads, fields and targets, whatever the version of HTTP: no bytes of a protocol are read here."""
