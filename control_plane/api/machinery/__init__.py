"""API machinery: all that is the same for objects of every kind.

Owns: schema and resources of the API, decoding of bodies, patches and server-side apply, selectors, quantities, names,
tables, discovery and OpenAPI documents, and the bounds on what a client's document may cost.
Does not own: what is special to one kind (`control_plane.api.kinds`).

Concurrency: pure functions; the caches that exist hold immutable values.
"""
