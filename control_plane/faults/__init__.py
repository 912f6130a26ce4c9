"""One language of faults: what may be broken in a cluster, whom it hits, and how that is written.

Chaos on live clusters, the simulation, storms and crash tests all speak it. `vocabulary` has the faults and their
targets, `form` their one form in files and commands, `reading` the strict reader of such files, `drawing` faults by
seed, `injector` what a place does to carry them out. Those places, and who judges what came of it, are not here.
"""
