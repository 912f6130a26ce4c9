"""Wire formats: `.proto` sources and the Python code generated from them by `scripts/gen_proto`.

Owns every message that crosses a process boundary: `etcd` (etcd v3 client API), `csi` (Container Storage Interface),
`cri` (Container Runtime Interface), `rayplane.v1` (this project's own services). Owns no behaviour: services are looked
up by descriptor and served by `control_plane.rpc`. Generated modules are data; the one thing they share is `pool`,
which keeps their names apart from other packages'.
"""
