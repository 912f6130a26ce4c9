"""The gRPC face: services Objects and Discovery of `rayplane.v1`, over the registry.

Owns the envelopes and the audit of batches. Does not own objects' rules (`registry`) or the
connections (`control_plane.rpc`).
"""
