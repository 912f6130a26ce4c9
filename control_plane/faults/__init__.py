"""One language of faults: what may be broken in a cluster, whom it hits, and how that is written.

Chaos on live clusters, the simulation, storms and crash tests all speak it. Owns the faults and their targets
(`vocabulary`), their one form in files and commands (`form`), the strict reader of such files (`reading`), faults by
seed (`drawing`), what a place does to carry them out (`injector`). Does not own those places, nor who judges what came
of it.
"""
