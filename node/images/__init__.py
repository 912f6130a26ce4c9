"""The images of a machine: from an archive, a build or a registry to directories below the roots of containers.

Owns names of images, their formats, the store that all node hosts of a cluster on one machine share, and its unpacked
layers. Does not own when an image is pulled (`node.kubelet`), nor how a root is mounted from it (`node.runtime`).

Concurrency: a store blocks and is called from threads; its state is files, changed under locks of the kernel, so that
processes and threads may use one store together and any of them may be killed at any moment. What archives and
registries say is hostile until it is checked: content by its digest, sizes and counts by bounds, paths by how they are
walked (`unpacking`).
"""
