"""Kinds of admissionregistration.k8s.io: one module each."""
