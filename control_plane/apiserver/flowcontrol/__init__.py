"""Flow control: whose request waits when there is much to do (API Priority and Fairness).

Owns the seats of a server, who gets them by flow schemas and priority levels, and the threads for large documents. Does
not own the objects that say so (`control_plane.api.bootstrap_flow`, `control_plane.apiserver.bootstrap`), nor limits of
single requests, which stand with what they limit.
Concurrency: everything happens on the server's loop; the pure parts (queues, levels, matching, estimates) are told what
time it is, and a task waits in `Fairness` alone.
"""
