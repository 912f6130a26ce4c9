"""The replicated log of one member: the one owner of its raft node, and the ways in and out of it.

Owns the driver between raft, log, state machine and peers, and what others ask of it: proposals, linearizable reads,
changes of membership, leadership. Does not own the consensus algorithm (`control_plane.etcd.raft`), what a committed
request means (`state_machine`), nor who may ask (`services`).
"""
