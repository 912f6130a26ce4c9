"""Service proxy (Kubernetes' kube-proxy): the way from a service's address to a ready pod, by TCP, UDP and SCTP.

Owns which addresses this host answers at and where a connection goes (`rules`, pure), the packet rules that do so in
the pods' network (`packet_rules`, pure), the sockets where there are none and for people at the machine (`listeners`,
`datagrams`, `pipes`), and what balancers are told (`health_check`). Does not own service addresses (API server),
endpoints (controllers) or HTTP routing (`node.ingress`). SCTP is served by packet rules alone. Services whose endpoints
are all simulated get no socket.

Concurrency: one task per connection and direction, with one buffer of bounded size each; a slow reader slows its
writer. Several hosts of one machine listen on the same address with SO_REUSEPORT; the kernel spreads connections. A
connection to an endpoint that was removed goes on until one side closes it.
"""
