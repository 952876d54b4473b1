"""HTTP/1.1 as bytes: pure functions between heads and their serialised form."""
