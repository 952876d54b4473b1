"""Instances in files of this machine, beside proxy.yaml."""
