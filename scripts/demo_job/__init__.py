"""The main job: a cluster on Ray with an application of real processes, and everything it must survive.

Brings a cluster up, applies `scripts/demo_app`, sends HTTP requests through the Ingress and writes to etcd and to the
API without pause, kills the etcd leader, an API server and the node under the database, and looks after each kill
whether anything that was acknowledged is missing. Then backup, restore into a second cluster, and comparison. Whatever
happens, both clusters and their data are gone at the end.

Concurrency: one event loop; each kind of request is a task of its own, one request at a time.
"""
