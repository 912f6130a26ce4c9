"""Kinds of networking.k8s.io: one module each."""
