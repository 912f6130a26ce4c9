"""The Container Runtime Interface of a node host: what `crictl`, or another kubelet, sees and makes here.

Owns the sandboxes and containers that clients of CRI make beside the kubelets' pods, the streams into both, and the
socket where all of it is served. Does not own how containers run (`node.runtime`), nor the kubelets' pods: those are
read as they are, and their containers can be looked into and stopped, as with any runtime below a kubelet.

    views       what a kubelet's pod looks like in CRI (pure)
    selection   filters of lists, and names for ids (pure)
    inventory   both kinds of pods by id
    own_pods    sandboxes and containers that clients made; `ground`: where they run
    service     RuntimeService; `images`: ImageService; `stored_images`: the node's store behind it
    streams     exec, attach and port-forward by URLs that are good once
    events      what changed, for those who watch
    server      the socket, and all of the above put together

All on the event loop. Bounds: sandboxes, containers, open URLs, watchers and what each may be behind, output of a
command, copies of logs.
"""
