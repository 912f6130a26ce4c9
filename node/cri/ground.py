"""The ground of pods that clients of CRI make on a host: one of its nodes, whose runtime and addresses they get."""

from collections.abc import Iterable, Mapping
from functools import partial

from rayplane.node.cri.own_pods import Directories, Ground
from rayplane.node.cri.stored_images import Manager
from rayplane.node.kubelet.etc_files import etc_files
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.node.runtime import Runtime
from rayplane.node.tasks import Tasks
from rayplane.storage.env import Env


def ground_of(
    kubelets: Iterable[Kubelet],
    runtimes: Mapping[str, Runtime],
    files: Directories | None,
    env: Env,
    tasks: Tasks,
    images: Manager | None,
    *,
    isolates: bool,
) -> Ground:
    """A node that runs processes, where a node of the host does. `runtimes`: the host's, by name; `images`: its."""
    kubelet = min(kubelets, key=lambda k: not k.config.takes_processes)
    first = {name: runtime for name, runtime in runtimes.items() if runtime is kubelet.runtime}
    return Ground(
        runtimes=first | dict(runtimes),
        addresses=kubelet.addresses,
        files=files if kubelet.config.takes_processes else None,
        etc_files=partial(etc_files, dns="") if isolates else lambda pod, ip: {},
        env=env,
        tasks=tasks,
        images=images if kubelet.config.takes_processes and not kubelet.config.cri_path else None,
    )
