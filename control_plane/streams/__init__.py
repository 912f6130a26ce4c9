"""Streams into pods as Kubernetes' clients speak them: commands and forwarded ports, over WebSockets or SPDY/3.1.

Owns the frames, channels and streams of both, from the server's side and from the client's. Does not own what runs in a
pod: what clients send comes as messages of `rayplane.v1.Node`, and what they are shown is asked of whoever gives those.
"""
