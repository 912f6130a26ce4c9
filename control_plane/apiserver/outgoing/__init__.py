"""Calls of an API server itself: to hosts of nodes, pods, services and webhooks.

Owns: finding the host of a pod's node, the endpoints behind a service, connections to both, and posts to webhooks.
Does not own: what is asked of whom (`admission`), or requests of clients that are only handed on (`rest.proxy`).
Everything is bounded in time by its caller, and answers in size here.
"""
