"""HTTP/2 as values and bytes: field compression, frames, heads, limits. No sockets, no clock."""
