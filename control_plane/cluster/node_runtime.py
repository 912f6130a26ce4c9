"""The checks of a runtime that a node is to have of its own: by its cluster's rules, and at this machine's socket."""

import asyncio
import contextlib

from rayplane.control_plane.cluster.config import AUTO, NAMESPACES, ON, ClusterConfig, check_runtime, makes_processes
from rayplane.control_plane.cluster.errors import ClusterError, UsageError, refusal
from rayplane.node.config import cri_path

CONNECT_S = 5.0


def check_fits(runtime: str, config: ClusterConfig, *, isolated: bool) -> None:
    """Raises UsageError where nodes of a runtime cannot be in a cluster. `isolated`: whether its processes are."""
    check_runtime(runtime)
    keeps_none = bool(cri_path(runtime)) or (makes_processes(runtime) and not isolated)
    if config.network_policy == ON and keeps_none:
        raise UsageError(
            f"--runtime {runtime}: with --network-policy {ON} no pod runs where policies are not kept, and they are "
            f"kept for processes with --isolation {NAMESPACES} alone; use --network-policy {AUTO}, or other nodes"
        )


async def check_serves(runtime: str) -> None:
    """Raises ClusterError where a runtime is another program's and nobody listens at its socket, which is here."""
    if path := cri_path(runtime):
        try:
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as e:
            why = refusal(e) if isinstance(e, OSError) and e.errno else "no answer in time"
            raise ClusterError(
                f"--runtime {runtime}: no runtime is reached at {path} ({why}); start containerd or CRI-O there, as a "
                "user that may use its socket"
            ) from e
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
