"""Kubernetes' kinds: one room per kind for all that is special to it, in folders named as its groups.

A room is a module with the functions and one `Rules` value per kind (see `rules`): name, defaults, validation, what
create and update keep or drop, status, columns of tables, field selectors, scale. The list of rooms is `registry`;
`defaulting`, `strategy`, `validation` and `deletion` apply the rules of whatever kind they are given. Pieces that
several kinds share (`metadata`, `workloads`, `pod_template`) stand beside the groups.

Owns the rules of kinds and how they are applied.
Does not own: what is the same for every kind (`control_plane.api.machinery`), rules about the state of pods
(`control_plane.api.pods`), admission rules that need other objects.

Concurrency: pure functions; those that change an object in place say so.
"""
