"""HTTP/2 (RFC 9113) for one connection, without sockets: bytes in, callbacks and bytes out.

    connection = Connection(handler, client=False)
    connection.receive(data)            # calls handler.on_headers, on_data, on_reset, ...
    connection.send_headers(stream, block); connection.send_data(stream, data, end=True)
    transport.write(connection.take())  # everything there is to send now

Owns framing, HPACK state, stream states, flow control in both directions and the limits a peer must keep. Does not
own sockets, TLS, time or what is said over the streams (gRPC is `control_plane.rpc.grpc_wire`'s). Not for browsers:
no push, no priorities, and what is sent is never compressed by reference (no state that could go wrong, a few more
bytes).

Why our own: what the members serve is bounded by the cost of a call in Python. Measured per small unary call over
TLS on one core: see "What bounds it" in scripts/benchmarks/README.md.

Bounds: frames (`FRAME_BYTES_MAX`), header blocks (`HEADERS_BYTES_MAX`), streams that the peer may open
(`STREAMS_MAX`), unread bytes per stream (`STREAM_WINDOW`), answers to control frames in one turn
(`CONTROL_FRAMES_MAX`), streams it opened only to reset them (`RESETS_MAX`). What a peer does not read is for the
owner of the socket to bound.
"""

from rayplane.control_plane.rpc.http2.connection import Connection
from rayplane.control_plane.rpc.http2.errors import ErrorCode, ProtocolError
from rayplane.control_plane.rpc.http2.headers import HeaderBlock, encode_headers
from rayplane.control_plane.rpc.http2.stream import Handler, Stream

__all__ = ["Connection", "ErrorCode", "Handler", "HeaderBlock", "ProtocolError", "Stream", "encode_headers"]
