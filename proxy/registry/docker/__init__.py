"""Docker: running containers with labels."""
