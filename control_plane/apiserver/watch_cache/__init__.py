"""Watch caches: every resource's current objects and recent changes, in step with etcd (Kubernetes' cacher).

Owns one cache per resource, the hub that feeds them from etcd's watches, indexes that follow them, and looking up other
objects in them. Does not own writes (`storage`) or who may see what (`authorization`).
"""
