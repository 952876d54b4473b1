"""TLS between a TCP transport and the protocol that speaks above it."""
