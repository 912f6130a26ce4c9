"""Answers how many nodes workloads need, by the scheduler's own rules, and what the loss of one costs.

Owns the question and its answer. Does not own where a pod fits (the scheduler's core decides), what pods a workload has
(controllers say so, `workloads` only counts), nor nodes: nothing that is planned is written.

`workloads` and `plan` are pure. `planner` is the shell: it has pods defaulted and admitted by an API server, a running
cluster's or one in memory, sees what the scheduler would see there, and asks `plan`.
"""
