"""The etcd v3 API on the wire, with etcd's own package names, field names and numbers.

`kv_pb2` (package mvccpb), `auth_pb2` (authpb), `rpc_pb2` (etcdserverpb), `v3lock_pb2` (v3lockpb), `v3election_pb2`
(v3electionpb). Generated; no behaviour and no state.
"""
