"""Experiments in Chaos Mesh's words, carried out on pods.

Owns whom an experiment hits (`selection`), how far it is (`experiment`), what each kind does and undoes (`pod_chaos`,
`network_chaos`, `stress_chaos`), experiments by the clock (`schedule`) and in an order (`workflow`). Does not own the
kinds (`api.chaos_mesh`), nor what a node does to a pod that is marked (`node.lifecycle`, `node.runtime`,
`node.policy.disturbance`).
"""
