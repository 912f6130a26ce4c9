"""The Kubernetes API as pure functions on JSON objects (plain dicts).

`machinery` is what is the same for every kind, `kinds` what is special to each, `pods` the rules about a pod's state;
`authorization`, `audit` and `podsecurity` decide over requests.

Owns: kinds and their schema, decoding, defaulting, validation, strategies of create/update,
patches, selectors, quantities, tables, discovery documents, RBAC decisions, what nodes may see and
change, audit policies, the Pod Security Standards, the bounds on what a client's document may cost,
and the objects every new cluster has.

Does not own: storage, transport, admission that needs other objects (quota, service accounts),
address allocation. Nothing here does I/O, reads a clock, draws random numbers or knows asyncio: the
time, uuids and name suffixes come in as arguments.

Concurrency: every function is synchronous and keeps no state of a request; the caches that exist
(parsed quantities and selectors) hold immutable values. Functions that change an object in place
say so in their name or docstring; everything else leaves its arguments untouched.
"""
