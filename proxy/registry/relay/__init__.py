"""A relay of memberships: what it tells its followers, and a provider that follows one."""
