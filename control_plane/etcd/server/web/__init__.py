"""HTTP/1.1 on the client port: the JSON gateway, health, version, metrics.

Owns which path answers what. Does not own the services behind it, nor the port (`control_plane.rpc.listener`).
"""
