"""ZooKeeper: nodes of sessions, under a path."""
