"""Files of /etc that a pod's containers share: hosts, hostname, resolv.conf (core/v1 PodDNSConfig). Pure.

Source: Kubernetes documentation, "DNS for Services and Pods" and "Adding entries to Pod /etc/hosts with HostAliases".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import SandboxError
from rayplane.node.runtime.resolv import RESOLV_CONF, parse_resolv

DOMAIN = "cluster.local"
HOSTS = "/etc/hosts"
NAMESERVERS_MAX, SEARCHES_MAX, SEARCH_CHARS_MAX = 3, 32, 2048
HOST_NAME_MAX = 63
KERNEL_NAME_MAX = 64
_LOCAL = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::0", "ip6-localnet"),
    ("fe00::0", "ip6-mcastprefix"),
    ("fe00::1", "ip6-allnodes"),
    ("fe00::2", "ip6-allrouters"),
)


def host_name(pod: Object, node: str = "") -> str:
    """The name that the pod's containers have for their machine: that of its node, where they have its network."""
    spec = meta.spec(pod)
    if node and spec.get("hostNetwork"):
        return node[:HOST_NAME_MAX].rstrip("-.")
    name: str = spec.get("hostnameOverride") or spec.get("hostname") or meta.name(pod)
    return name[:HOST_NAME_MAX].rstrip("-.")


def full_name(pod: Object) -> str:
    """The pod's name in the cluster's DNS, empty unless it has a subdomain."""
    subdomain = meta.spec(pod).get("subdomain")
    return f"{host_name(pod)}.{subdomain}.{meta.namespace(pod)}.svc.{DOMAIN}" if subdomain else ""


def kernel_name(pod: Object, node: str = "") -> str:
    """The name that the kernel tells the pod's containers: the full one, where the pod asks for that. `node`: the name
    of its node.

    Raises SandboxError for a longer one than a kernel has.
    """
    spec, full = meta.spec(pod), full_name(pod)
    if not (spec.get("setHostnameAsFQDN") and full) or (node and spec.get("hostNetwork")):
        return host_name(pod, node)
    if len(full) > KERNEL_NAME_MAX:
        most = f"{KERNEL_NAME_MAX} characters is the max, {len(full)} characters requested"
        raise SandboxError(
            f"Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({most})"
        )
    return full


def etc_files(
    pod: Object, ip: str, *, dns: str, machine_resolv: str = "", machine_hosts: str = "", node: str = ""
) -> dict[str, bytes]:
    """Path to content. `dns`: the cluster's DNS server, empty for none; `machine_resolv`, `machine_hosts`: the
    machine's own resolv.conf and hosts; `node`: the name of the pod's node. Raises SandboxError as `kernel_name` does.
    """
    files = {
        "/etc/hostname": f"{kernel_name(pod, node)}\n",
        RESOLV_CONF: _resolv(pod, dns, machine_resolv),
        HOSTS: hosts(pod, ip, node, machine_hosts),
    }
    return {path: text.encode() for path, text in files.items()}


def hosts(pod: Object, ip: str, node: str = "", machine_hosts: str = "") -> str:
    """The content of /etc/hosts of a pod with that address. `node`: the name of its node. A pod with its node's network
    has what the machine's own says.
    """
    if meta.spec(pod).get("hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).", *machine_hosts.splitlines()]
    else:
        lines = ["# Kubernetes-managed hosts file.", *(f"{address}\t{names}" for address, names in _LOCAL)]
    names = "\t".join(filter(None, (full_name(pod), host_name(pod, node))))
    lines.append(f"{ip}\t{names}")
    if aliases := meta.spec(pod).get("hostAliases"):
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias.get("ip") or "", *(alias.get("hostnames") or ()))) for alias in aliases]
    return "\n".join(lines) + "\n"


def _resolv(pod: Object, dns: str, machine_resolv: str) -> str:
    spec = meta.spec(pod)
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and dns:
        servers = [dns]
        searches = [f"{meta.namespace(pod)}.svc.{DOMAIN}", f"svc.{DOMAIN}", DOMAIN]
        options = {"ndots": "5"}
    elif policy != "None":
        servers, searches, options = parse_resolv(machine_resolv)
    config: Mapping[str, Any] = spec.get("dnsConfig") or {}
    servers += config.get("nameservers") or ()
    searches += config.get("searches") or ()
    options |= {o["name"]: o.get("value") for o in config.get("options") or ()}
    return _lines(_distinct(servers)[:NAMESERVERS_MAX], _fitting(_distinct(searches)), options)


def _lines(servers: Iterable[str], searches: list[str], options: Mapping[str, str | None]) -> str:
    lines = [f"nameserver {server}" for server in servers]
    if searches:
        lines.insert(0, f"search {' '.join(searches)}")
    if options:
        words = (name if value is None else f"{name}:{value}" for name, value in options.items())
        lines.append(f"options {' '.join(words)}")
    return "".join(f"{line}\n" for line in lines)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _fitting(searches: list[str]) -> list[str]:
    """As many as Kubernetes allows, and resolvers take."""
    found: list[str] = []
    for name in searches[:SEARCHES_MAX]:
        if sum(len(one) + 1 for one in (*found, name)) - 1 > SEARCH_CHARS_MAX:
            break
        found.append(name)
    return found
