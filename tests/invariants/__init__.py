"""What must hold of a cluster, judged from histories that are data."""
