"""What a member counts and tells Prometheus: `metrics` of the member, `process` of its process, `text` the format."""
