"""Volume drivers: what keeps the bytes of a persistent volume.

`local` keeps them in a directory of one node, `replicated` on a majority of several.
"""
