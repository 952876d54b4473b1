"""Policies: pure state machines that take `now` and decide; the exchange asks them and acts."""
