"""Variables of an isolated container's programs: the pod's own, over those of its image, over what runtimes give."""

from collections.abc import Iterable

from rayplane.node.runtime import Mount, StartOrder
from rayplane.node.runtime.command import mount_variable
from rayplane.node.shim.processes import MARK

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs of an image are that does not say."""
SYNC = "RAYPLANE_VOLUME_SYNC"


def variables(order: StartOrder, *, home: str, path: str) -> dict[str, str]:
    """`path`: where programs are, unless image or pod say otherwise."""
    env = {
        "PATH": path,
        "HOME": home,
        "HOSTNAME": order.host_name,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # What programs are told that run without a file system of their own: so that one goes with both.
        "POD_IP": order.pod_ip,
        "RAYPLANE_ROOT": "/",
        **{mount_variable(mount.volume): mount.mount_path for mount in order.mounts},
    }
    if order.container.get("tty"):
        env["TERM"] = "xterm"
    env |= {**(order.image.env if order.image is not None else {}), **order.env, MARK: order.container_id}
    for place in sync_sockets(order.mounts):
        env[SYNC] = place
    return env


def sync_sockets(mounts: Iterable[Mount]) -> dict[str, str]:
    """Where a container finds the sockets of its volumes, with their paths on the machine."""
    return {f"/run/rayplane/{m.volume}.sync": m.sync_socket for m in mounts if m.sync_socket}
