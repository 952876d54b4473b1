"""What the proxy knows of registries: providers that turn one into whole memberships."""
