"""Registries as the proxy knows them: providers that turn one into whole memberships."""
