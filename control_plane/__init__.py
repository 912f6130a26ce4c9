"""The control plane: etcd members, API servers, scheduler, controllers, and what composes them.

Owns the components and their layers (see each package). Does not own bytes on disk (`storage`) or pods (`node`).
"""
