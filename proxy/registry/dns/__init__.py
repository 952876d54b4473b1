"""Services in the DNS: SRV records, or the addresses behind a name."""
