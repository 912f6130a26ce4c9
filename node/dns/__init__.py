"""Cluster DNS (Kubernetes' CoreDNS): names of services, endpoints and pods, and the way to all other names.

Owns what names there are (`names`, `zone`) and what is answered to a question (`answers`), all pure; messages as bytes
(`messages`); what the machine's own DNS servers say (`upstream`, `cache`); the sockets (`server`); `feed` and
`cluster_dns` put it together. Does not own services and endpoints, which come from the host's informers, or the
resolv.conf of pods (`node.kubelet.etc_files`).

Concurrency: questions about the cluster are answered in the turn in which they come. Those that go to the machine's
servers have a task each, as many as `server` bounds; equal ones share one. What is malformed is refused or dropped, and
nothing that clients send is kept longer than the bounds of caches and connections say.

Source: Kubernetes DNS-Based Service Discovery 1.1.0 (kubernetes/dns, docs/specification.md); where that leaves it open,
what CoreDNS answers with kubeadm's configuration. RFC 1035, 2308 (negative answers), 6891 (EDNS), 7766 (TCP).
"""
