"""What is special to each kind: one room per kind, in folders named as Kubernetes names its groups.

Owns: defaults, validation, what create and update keep or drop, columns of tables, per kind; pieces that several kinds
share (the pod template, metadata) stand in rooms of their own beside the groups.
Does not own: what is the same for every kind (`control_plane.api.machinery`), admission rules that need other objects.

Concurrency: pure functions; those that change an object in place say so.
"""
