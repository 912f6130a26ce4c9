"""The replicated driver: a volume's bytes live on several nodes and follow the pod to whichever node it runs on.

Owns the protocol between replicas (`rayplane.v1.VolumeReplica`), the store of a node's replicas (`replica_store`), the
writing node's publication of a volume (`publication`), the upkeep of volumes that nobody uses (`upkeep`), the directory
that pods write to (`workdir`, `tree`), the barrier at which they wait until their writes are safe (`barrier`), and the
records that say who writes (`directory`, `lease_directory`). Does not own which pod uses which volume, nor sockets:
stubs are passed in.
"""
