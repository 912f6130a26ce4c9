"""Bootstrap of a member from its data directory: found a cluster, join one, restart, restore a backup."""
