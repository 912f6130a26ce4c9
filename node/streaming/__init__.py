"""The kubelet's streaming server: logs, commands, port-forwards and stats, over gRPC.

Owns the service `rayplane.v1.Node` and how many streams may be open at once. Does not own containers or their logs
(`node.runtime`).
"""
