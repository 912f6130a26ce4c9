"""Metrics for Prometheus: `metrics` of the member, `process` of its process.

Owns names and counts. Does not own what is counted, nor the port on which it is read (`web`).
"""
