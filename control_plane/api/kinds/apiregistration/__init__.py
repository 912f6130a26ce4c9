"""Kinds of apiregistration.k8s.io: one module each."""
