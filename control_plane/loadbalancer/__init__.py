"""The load balancer: one stable TCP address in front of the API servers' HTTPS ports.

Owns which server a new connection goes to and when connections are ended (`backends`, pure), how a server is asked
whether it is ready (`probe`), and the thin loop that carries bytes (`balancer`). Does not own what it carries, since
TLS and HTTP end at the servers, nor how gRPC clients spread over servers (`control_plane.client.endpoints`).

Concurrency: one event loop; each connection is a task, with one more for each direction.
"""

from rayplane.control_plane.loadbalancer.balancer import CHECK_INTERVAL_S, LoadBalancer, LoadBalancerConfig

__all__ = ["CHECK_INTERVAL_S", "LoadBalancer", "LoadBalancerConfig"]
