"""The layouts of records and keys that registrars in the world write."""
