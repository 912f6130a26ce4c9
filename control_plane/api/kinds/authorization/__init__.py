"""Kinds of authorization.k8s.io: one module each."""
