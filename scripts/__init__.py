"""Development and demonstration: run from a checkout, not installed."""
