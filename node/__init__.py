"""Node hosts: kubelets, service proxies, ingress and volume backends.

Owns everything that happens on a node: registering it and keeping its Lease, running the pods bound to it (as data or
as real processes), probing them, writing their status, carrying traffic to them, mounting their volumes, and
fencing itself when it has lost the cluster. Does not own where pods run (scheduler) or which pods exist (controllers).

Concurrency: one event loop per host. The pod life cycle (`lifecycle`), the proxy's rules and the ingress routes are
pure; each is driven by one shell. A simulated pod costs no task and no thread; tasks exist per host, per real
probe and per connection. Status writes of all pods of a host travel together.
"""
