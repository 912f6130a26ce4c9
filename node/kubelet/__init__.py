"""Kubelets: one node each, and the pods bound to it.

Owns a node's registration, its Lease and status (`registration`, `node_lease`, `node_status`), which pods it takes
(`admission`), a worker for each of them (`pod_worker`) with its sandbox, probes and addresses, and what the API is told
of them (`status_manager`). Does not own what a pod does next (`node.lifecycle`), how containers run (`node.runtime`)
or where volumes come from (`node.volumes`).

Concurrency: one event loop per host; a simulated pod costs no task.
"""
