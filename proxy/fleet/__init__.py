"""Proxies of a fleet, by way of etcd: one configuration, marks, and who is there."""
