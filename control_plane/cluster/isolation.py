"""The decision whether the pods of a cluster have namespaces of their own: once, when its addresses are given out."""

import asyncio
from collections.abc import Callable

from rayplane.control_plane.cluster.config import NAMESPACES, NONE, ON, AddressPlan, ClusterConfig
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
        if not before.isolated:
            _check_policies(config, why="pods of this cluster share their machines' networks")
        return before.isolated
    if not config.runs_processes or config.isolation in ("", NONE):
        _check_policies(config, why="pods share this machine's network")
        return False
    found = await asyncio.get_running_loop().run_in_executor(None, probe)
    if found.works:
        progress("pods get namespaces of their own: this machine lets its users make them")
    elif config.isolation == NAMESPACES:
        raise ClusterError(f"--isolation {NAMESPACES}: this machine does not let pods be isolated: {found.why}")
    else:
        _check_policies(config, why=found.why)
        progress(f"pods share this machine's network and files, since it does not let them be isolated: {found.why}")
    return found.works


def _check_policies(config: ClusterConfig, *, why: str) -> None:
    if config.runs_processes and config.network_policy == ON:
        raise UsageError(f"--network-policy {ON}: they are kept with --isolation {NAMESPACES} alone: {why}")
