"""Adds nodes when pods find none, and takes away those that nobody needs, as Kubernetes' Cluster Autoscaler does.

Owns the judgement of how many nodes a cluster should have, and the way there: where a node is added, when Ray is asked
for a machine, in which order a node is emptied. Does not own nodes (the supervisor's topology has them) nor the rules
of where a pod fits: those are the scheduler's own (`scheduler.onlooker`).

`decision` is pure: what the scheduler's core sees, nodes, limits and the time in; what to add and to remove out.
`trial` changes what that core sees, and takes it back; `keeping` says which pods keep a node; `rooms` which machines
have room; `report` what people are told. `loop` is the shell: one task, which looks, decides and carries out, over and
over. What it has begun stands in the Nodes' taints, so that a supervisor that takes over goes on.

Source: Kubernetes Cluster Autoscaler, its documentation (FAQ) and the names of its events and annotations.
"""
