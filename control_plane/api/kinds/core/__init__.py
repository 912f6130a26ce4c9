"""Kinds of the group without a name: one module each."""
