"""The decision whether the pods of a cluster have namespaces of their own: once, when its addresses are given out."""

import asyncio
from collections.abc import Callable

from rayplane.control_plane.cluster.config import NAMESPACES, NONE, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.node.runtime.isolation.probe import probe


async def decide(config: ClusterConfig, before: AddressPlan | None, progress: Callable[[str], None]) -> bool:
    """Whether pods are isolated. Raises UsageError or ClusterError where they are to be and cannot.

    `before`: of a cluster that has data, whose addresses say it already.
    """
    if before is not None:
        if config.isolation == (NONE if before.isolated else NAMESPACES):
            raise UsageError(
                f"--isolation {config.isolation}: the cluster's addresses were given out for the other way; "
                "use another --name, or begin anew after a `rayplane down --purge`"
            )
        return before.isolated
    if not config.runs_processes or config.isolation in ("", NONE):
        return False
    found = await asyncio.get_running_loop().run_in_executor(None, probe)
    if found.works:
        progress("pods get namespaces of their own: this machine lets its users make them")
    elif config.isolation == NAMESPACES:
        raise ClusterError(f"--isolation {NAMESPACES}: this machine does not let pods be isolated: {found.why}")
    else:
        progress(f"pods share this machine's network and files, since it does not let them be isolated: {found.why}")
    return found.works
