"""Linearizability is checked here, not claimed.

Owns: tests of the checker and of the model of an etcd key space (`control_plane.invariants`), recorded histories of
concurrent clients (`history`, `clients`, `watching`, `leasing`), the guarantees that are no part of linearizability:
order of revisions, past states, watches, leases (`guarantees`, `watching`, `leasing`), and the storms that members are
put through in virtual time (`processes`, `faults`, `storm`). Does not own the members or the in-memory network.

Concurrency: a storm is one event loop in virtual time, repeatable by its seed. Checking is synchronous and pure.
"""
