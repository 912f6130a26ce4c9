"""The controller manager: reconcile functions that drive the cluster towards what its objects ask for.

Owns: one level-triggered controller per file (Jobs have a package, `job`), each a pure function from what the caches
show to a list of actions (`core`), the memory of what they did and from which changes (`story`), and the shell that
runs them: shared informers (`caches`), memory of own writes (`expectations`), execution of actions (`executor`), the
workers of one controller (`runner`), leadership and life cycle (`manager`). Calls to volume backends (CSI,
`provisioner`) and metrics APIs (`autoscaler`) belong to the shell too.

The manager reads for all controllers in its own name; each writes as the account of `accounts`, by impersonation.

Does not own: scheduling, pods on nodes, proxies, ingress addresses, admission and defaulting (the API server).

Concurrency: one asyncio loop, no threads. Each controller has one work queue and a bounded number of workers; a key is
never reconciled by two workers at once. A key whose own writes are not in the caches yet is held back (`expectations`),
so a reconcile never acts on a past it has changed itself. Only the holder of the Lease `kube-controller-manager` runs
controllers; losing it cancels them all. Reconcile functions neither wait nor read a clock: the moment comes in as an
argument. A controller that keeps state between calls (`nodelifecycle`) says so and rebuilds it from nothing.

Departure from Kubernetes: pods of a lost node are force-deleted some time after their eviction, so that StatefulSet
pods start elsewhere without a hand. See `podgc` for why that is safe for the data.
"""
