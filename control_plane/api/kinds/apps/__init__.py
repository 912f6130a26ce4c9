"""Kinds of apps: one module each."""
