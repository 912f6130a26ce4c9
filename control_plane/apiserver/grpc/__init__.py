"""The gRPC face: services Objects, Pods, Discovery and Chaos of `rayplane.v1`, over the registry.

Owns the envelopes, errors as gRPC libraries read them, and the audit of batches. Does not own objects' rules
(`registry`), the way to pods (`outgoing`) or the connections (`control_plane.rpc`). What a call means and why it is
refused is as over REST.
"""
