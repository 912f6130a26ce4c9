"""The process that real containers are children of: one small program per node host.

Owns starting, killing and reaping processes, their logs, and who is attached to them. Does not own what is started, nor
when (`node.runtime`, `node.lifecycle`). Imports nothing of this project: it is a program by itself.
"""
