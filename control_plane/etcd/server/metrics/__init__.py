"""Metrics for Prometheus: `metrics` of the member, `process` of its process."""
