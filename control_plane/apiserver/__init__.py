"""API servers: the Kubernetes REST API over HTTPS and `rayplane.v1` over gRPC, over one registry.

Owns: reading and writing objects in etcd and their encryption there, the watch cache, authentication and the tokens of
service accounts, authorisation, admission, who waits when much is to do, the audit log, subresources, both faces, and
what every new cluster must have.
Does not own: what kinds mean (`control_plane.api`), etcd itself, the load balancer in front of the HTTPS ports
(`control_plane.loadbalancer`), or anything that reconciles (controllers).

Replicas are stateless: all state is in etcd, and any number of them may run. Everything runs on one event loop and
needs no locks: a cache changes only between awaits. Threads get what is theirs alone: large documents one at a time
(`heavy`), the audit log's file. Writes are optimistic transactions on an object's revision.
"""
