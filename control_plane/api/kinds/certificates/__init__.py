"""Kinds of certificates.k8s.io: one module each."""
