"""Runtimes of other projects below a node: whatever serves the Container Runtime Interface v1 at a socket.

Owns what such a runtime is told, what it is asked, and what is made of its answers: that it hangs, dies, lies or
forgets costs the node its pods at worst, never the host. Does not own what the runtime does with it, nor how pods live.
"""
