"""The records of a cluster as the specification lists them, written down flat and slowly, as a judge of the zone."""

from typing import Any, NamedTuple

Record = tuple[str, str, tuple[Any, ...]]
"""Name without the last dot, type, data."""
ZONE = "cluster.local"
DNS = "10.24.0.10"


class Cluster(NamedTuple):
    """All that names come from; services and slices as the API has them."""

    namespaces: list[str]
    services: list[dict[str, Any]]
    slices: list[dict[str, Any]]


def endpoints(cluster: Cluster, service: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
    """(hostname, address, [(port name, protocol, number)]) of each ready endpoint."""
    found = []
    for one in cluster.slices:
        if one["metadata"]["labels"]["kubernetes.io/service-name"] != service["metadata"]["name"]:
            continue
        if one["metadata"]["namespace"] != service["metadata"]["namespace"]:
            continue
        ports = [(p.get("name", ""), p["protocol"], p["port"]) for p in one["ports"]]
        for endpoint in one["endpoints"]:
            if endpoint.get("conditions", {}).get("ready", True):
                for ip in endpoint["addresses"]:
                    found.append((endpoint.get("hostname") or ip.replace(".", "-"), ip, ports))
    return found


def records(cluster: Cluster) -> list[Record]:
    """Every record but those of pods, which there are for all addresses, and of the zone itself."""
    found: list[Record] = [(f"dns-version.{ZONE}", "TXT", ("1.1.0",)), (f"ns.dns.{ZONE}", "A", (DNS,))]
    for service in cluster.services:
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.{ZONE}"
        spec = service["spec"]
        if spec.get("type") == "ExternalName":  # 2.5
            found.append((name, "CNAME", (spec["externalName"],)))
            continue
        ready = endpoints(cluster, service)
        for host, ip, ports in ready:
            found.append((f"{host}.{name}", "A", (ip,)))  # 2.4.1
            found += [(f"{host}.{name}", "SRV", (number, f"{host}.{name}")) for _, _, number in ports]  # CoreDNS
            # 2.4.3; an address of a service belongs to that
            found.append((_reverse(ip), "PTR", (f"{host}.{name}",)))
        if spec["clusterIP"] == "None":
            for host, ip, ports in ready:
                found.append((name, "A", (ip,)))  # 2.4.1
                for port, protocol, number in ports:
                    found += _of_port(name, port, protocol, number, f"{host}.{name}", ip)  # 2.4.2
        else:
            found.append((name, "A", (spec["clusterIP"],)))  # 2.3.1
            for one in spec["ports"]:
                found += _of_port(name, one.get("name", ""), one["protocol"], one["port"], name, spec["clusterIP"])
            found.append((_reverse(spec["clusterIP"]), "PTR", (name,)))  # 2.3.3
    return found


def _of_port(name: str, port: str, protocol: str, number: int, target: str, ip: str) -> list[Record]:
    """2.3.2 and 2.4.2; in CoreDNS a service's name has all of them, and a port's name the addresses."""
    found: list[Record] = [(name, "SRV", (number, target))]
    if port:
        at = f"_{port}._{protocol.lower()}.{name}"
        found += [(at, "SRV", (number, target)), (at, "A", (ip,))]
    return found


def _reverse(ip: str) -> str:
    return ".".join(reversed(ip.split("."))) + ".in-addr.arpa"


def ask(cluster: Cluster, name: str, kind: str) -> tuple[str, set[tuple[Any, ...]]]:
    """NOERROR or NXDOMAIN, and the data of the answer; no aliases are followed."""
    name = name.lower()
    known = [(n.lower(), k, data) for n, k, data in records(cluster)]
    names = {n for n, _, _ in known} | {f"svc.{ZONE}", f"pod.{ZONE}"}
    names |= {f"{ns}.{part}.{ZONE}" for ns in cluster.namespaces for part in ("svc", "pod")}
    found = {data for n, k, data in known if n == name and k == kind}
    if kind == "PTR":
        services = {s["metadata"]["name"] for s in cluster.services if _ip(name) == s["spec"].get("clusterIP")}
        found = {
            data for data in found if not services or (data[0].split(".")[0] in services and data[0].count(".") == 4)
        }
    exists = any(n == name or n.endswith(f".{name}") for n in names)
    return ("NOERROR" if exists else "NXDOMAIN"), found


def _ip(name: str) -> str:
    return ".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))
