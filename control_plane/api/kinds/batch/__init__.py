"""Kinds of batch: one module each."""
