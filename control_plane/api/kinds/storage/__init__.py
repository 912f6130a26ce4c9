"""Kinds of storage.k8s.io: one module each."""
