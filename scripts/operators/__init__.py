"""Operators to learn from: how a controller is tried in a simulated cluster."""
