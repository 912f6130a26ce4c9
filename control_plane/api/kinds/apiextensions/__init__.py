"""Kinds of apiextensions.k8s.io: one module each."""
