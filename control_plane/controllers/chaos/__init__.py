"""Experiments in Chaos Mesh's words, carried out on pods.

Owns whom an experiment hits (`selection`), what it does and undoes, and how far that is (`experiment`), and experiments
by the clock (`schedule`). Does not own the kinds (`api.chaos_mesh`), nor what a node does to a pod that is marked
(`node.lifecycle`).
"""
