"""TLS, for whoever needs it: contexts, names, certificates. Imports nothing of the proxy."""
