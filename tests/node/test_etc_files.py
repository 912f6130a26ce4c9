"""Files of /etc that a pod has, and the name that its kernel tells."""

from typing import Any

import pytest

from rayplane.node.errors import SandboxError
from rayplane.node.kubelet.etc_files import etc_files, kernel_name

FULL = "web.front.default.svc.cluster.local"


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "web"),
        ({"hostname": "a", "subdomain": "front"}, "a"),
        ({"setHostnameAsFQDN": True}, "web"),  # there is no full one
        ({"subdomain": "front", "setHostnameAsFQDN": True}, FULL),
        ({"subdomain": "front", "setHostnameAsFQDN": True, "hostNetwork": True}, "node-1"),
        ({"hostnameOverride": "b"}, "b"),
    ],
)
def test_the_kernel_tells_the_name_that_the_pod_asks_for(spec: dict[str, Any], name: str) -> None:
    assert kernel_name(pod(**spec), "node-1") == name
    files = etc_files(pod(**spec), "10.0.0.1", dns="", node="node-1")
    assert files["/etc/hostname"] == f"{name}\n".encode()


def test_programs_find_both_names_of_a_pod() -> None:
    asking = pod(subdomain="front", setHostnameAsFQDN=True)
    lines = etc_files(asking, "10.0.0.1", dns="")["/etc/hosts"].decode().splitlines()
    assert f"10.0.0.1\t{FULL}\tweb" in lines


def test_a_pod_on_its_nodes_network_has_the_hosts_of_the_machine() -> None:
    on_node = pod(hostNetwork=True, hostAliases=[{"ip": "10.1.1.1", "hostnames": ["db", "store"]}])
    machine = "127.0.0.1 localhost\n192.0.2.7 printer\n"
    files = etc_files(on_node, "192.0.2.1", dns="", machine_hosts=machine, node="node-1")
    lines = files["/etc/hosts"].decode().splitlines()
    assert "# Kubernetes-managed hosts file." not in lines
    assert {"192.0.2.7 printer", "192.0.2.1\tnode-1", "10.1.1.1\tdb\tstore"} <= {*lines}


def test_a_name_that_no_kernel_has_is_told() -> None:
    long = pod(subdomain="f" * 40, setHostnameAsFQDN=True)
    with pytest.raises(SandboxError, match="64 characters is the max, 70 characters requested"):
        kernel_name(long)
