"""Parts that every component has beside its own work: metrics, logs with levels, and the paths that serve both.

Owns their forms: `metrics` what is counted, `exposition` how Prometheus reads it, `logs` lines, files and levels,
`log_reading` the way back from files, `log_pages` and `debugging` the HTTP/1.1 paths, `zpages` and `flags` what a
component tells of itself there; and `expiring`, answers of others that are remembered for a while. Knows no component:
each says itself what it counts, and nothing here is global but the process's log.
"""
