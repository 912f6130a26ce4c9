"""Trials: a scenario of faults on a live cluster, recorded while it runs, healed, and judged in the end.

Owns the run (`trial`), its clients and observers (`probes`, `observers`), what is broken now and how that survives its
own end (`journal`), the verdict (`verdict`) and its pages (`page`). Does not own the faults, nor what must hold:
`faults` and `invariants` do, and the simulation heeds the same files.

Concurrency: one task for each observer and client, one for the steps and one for each fault beside them, on one loop.
"""
