"""etcd as a registry: its JSON gateway, the prefix as a value, and the provider."""
