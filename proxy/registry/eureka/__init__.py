"""Eureka: its list of applications, and what has changed in it."""
