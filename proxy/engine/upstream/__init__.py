"""The side towards the instances: dialling, idle connections, one exchange at a time."""
