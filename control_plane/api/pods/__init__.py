"""Rules about pods, each written once: states, containers, requests and limits, quality of service, ports.

Owns what follows from one pod alone, as every component must decide it alike: API servers (defaults, status, quota,
limit ranges, tables), scheduler, controllers, kubelets and command line.

Does not own: whether a pod is valid or what is filled in (validation, defaults), which node it fits (scheduler), how
its containers come and go (the kubelet's life cycle). Nothing here changes a pod or knows the time.

Source: Kubernetes API reference core/v1 Pod; concepts "Pod Lifecycle", "Sidecar Containers", "Pod QoS Classes".
"""
