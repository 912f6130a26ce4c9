"""The services as JSON over HTTP/1.1: `gateway` for requests, `websocket` for streams of browsers.

Owns the mapping between the two: `calls` is what both have in common, `messages` turns messages to JSON and back,
`syntax` reads JSON with the error texts that clients of etcd know. Does not own the services it calls, nor the port
(`control_plane.rpc.listener`).
"""
