"""Service proxy (Kubernetes' kube-proxy): real TCP connections from a service's address to a ready pod.

Owns which addresses this host listens on and where a connection goes (`rules`, pure), and the sockets and the
splicing (`proxy`). Does not own service addresses (API server), endpoints (controllers) or HTTP routing
(`node.ingress`). UDP and SCTP ports are not served. Services whose endpoints are all simulated get no socket.

Concurrency: one task per connection and direction, with one buffer of bounded size each; a slow reader slows its
writer. Several hosts of one machine listen on the same address with SO_REUSEPORT; the kernel spreads connections. A
connection to an endpoint that was removed goes on until one side closes it.
"""
