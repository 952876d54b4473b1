"""Providers around providers: each a decision without I/O, and a provider that carries it out."""
