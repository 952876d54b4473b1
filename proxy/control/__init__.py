"""The control process: pools, supervisor, admin. It never touches a request."""
