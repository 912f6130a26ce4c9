"""The cluster's ingress: HTTP requests from one address to services, by host and path.

Owns the routing table (`routes`, pure), what annotations say (`annotations`), which requests are refused (`hygiene`),
the certificates shown (`certificates`) and the reverse proxy (`ingress`, `passages`). Does not own TCP services
(`node.proxy`). Connections are HTTP/1.1, in the clear or over TLS, WebSockets included, and HTTP/2 over TLS
(`http2_front`). Serves Ingress objects of class `rayplane`, and those that name no class.

Concurrency: one task per connection of HTTP/1.1, one per request of HTTP/2. Bodies are streamed with bounded buffers.
Every node host of a machine listens on the same addresses with SO_REUSEPORT.
"""
