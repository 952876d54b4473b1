"""Health: what a check is, the kinds of checks, and how many results make a change of standing."""
