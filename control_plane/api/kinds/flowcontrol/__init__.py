"""Kinds of flowcontrol.apiserver.k8s.io: one module each."""
