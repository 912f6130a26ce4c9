"""Rootless isolation: pods in namespaces of their own, below one user and one network namespace of the machine.

Owns the kernel's side of a pod: user and group numbers (`users`), the network of a machine with the
interfaces of pods (`network`), the file system that a container sees (`rootfs` says which, `mounts` makes it), the way
from fork to exec (`launch`), the program that does all that for a node host (`shim`), and the host's end of it
(`runtime`). Does not own when a container runs (`node.lifecycle`) or which address a pod has (`node.kubelet`).

All of it works without root wherever the kernel lets users make namespaces (`probe` tells). Nothing outlives its owner:
a namespace goes with the last process in it, a container's processes with the first of them, that one with the shim,
and the shim with its node host. No setuid program is used.
"""
