"""Volume drivers: what keeps the bytes of a persistent volume.

Owns how volumes are made, published and deleted: `local` keeps their bytes in a directory of one node, `replicated` on
a majority of several. Does not own which pod mounts a volume (`volume_manager`), nor how controllers reach it (`csi`).
"""
