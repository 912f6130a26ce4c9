"""The registry: the one path to objects for both faces.

Owns create, get, list, watch, update, patch and delete for every kind, and subresources with a meaning of their own.
Does not own a kind's rules (`control_plane.api`), admission (`admission`) or the wire (`rest`, `grpc`).
"""
