"""From a data directory to a member that can run: found a cluster, join one, restart, restore a backup."""
