"""The shell of the controller manager: leads by Lease, and while it leads drives every controller.

Owns informers and caches, work queues and workers, carrying out actions, expectations of own writes, what it tells
administrators of the controllers' work (`stories`), and the parts that talk to others than the API server (CSI calls,
live lists). Does not own what a controller decides: the modules beside
this package are pure.
"""
