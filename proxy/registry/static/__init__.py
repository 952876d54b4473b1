"""No registry: all instances stand in the file."""
