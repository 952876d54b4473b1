"""Balancers: pure selection among nodes. No I/O, no clock, no request object."""
