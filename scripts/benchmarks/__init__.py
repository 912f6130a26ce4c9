"""Benchmarks of whole clusters, one subcommand of `scripts/bench` a module.

Owns: clusters of its own for each measurement, load, clocks, and the tables. Does not own pass marks: nothing here
fails because it is slow. Load is asked for on one event loop in this process; `kv` runs its clients in a process of
their own, so that a real etcd and this one are measured by the same program.
"""
