"""Kubernetes: endpoints of services, as slices."""
