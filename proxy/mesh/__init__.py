"""The mesh: a proxy beside each instance, for programs that know nothing of it."""
