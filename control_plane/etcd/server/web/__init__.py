"""HTTP/1.1 on the client port: the JSON gateway, health, version, metrics."""
