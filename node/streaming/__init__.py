"""The kubelet's server: logs, commands, port-forwards and stats over gRPC, and a kubelet's pages over HTTP.

Owns the service `rayplane.v1.Node`, how many streams may be open at once (`sessions`), and whom the pages are shown to
(`web`). Does not own what stands on them (`node.kubelet.pages`), or containers and their logs (`node.runtime`).
"""
