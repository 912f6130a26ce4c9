"""The cluster's ingress: HTTP requests from one address to services, by host and path.

Owns the routing table (`routes`, pure) and the reverse proxy (`ingress`). Does not own TCP services (`node.proxy`) or
certificates: connections are plain HTTP/1.1, WebSockets included. Serves Ingress objects of class `rayplane`, and those
that name no class.

Concurrency: one task per connection. Bodies are streamed with bounded buffers. Every node host of a machine listens
on the same address with SO_REUSEPORT.
"""
