"""The Kubernetes REST API over HTTP/1.1 and TLS: what stock clients (kubectl, helm, client libraries) speak.

Owns: paths and verbs, content negotiation, tables, Status errors and warnings, watch streams, discovery, OpenAPI
and health documents, and the streams to pods (log, exec, attach, port-forward), which are passed on to node hosts
over gRPC. Does not own what an operation does: that is the registry, as for the gRPC face. One task per request, none
for plain gets of one object (`quick`); a stream ends with its client or with the server, whichever goes first.
"""
