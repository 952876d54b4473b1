"""A registry, a balancer and a check for Fairlead."""
