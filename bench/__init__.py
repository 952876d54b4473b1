"""One command, one table: what a proxied request costs in CPU, here and in the peers."""
