"""HTTP/2 with clients: `connection`, `server_stream`, `answers`, `session`, one on the other."""
