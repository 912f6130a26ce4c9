"""The gRPC services of a member, one file each: etcd's and ours to clients, and those that members have for each other.

Owns who may ask, whether the request is well-formed, then a proposal or a read. Does not own what a request does
(`state_machine`) nor how it gets into the log (`replication`).
"""
