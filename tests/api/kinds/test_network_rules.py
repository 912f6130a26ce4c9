"""Rules of services, endpoints and the networking group: what is refused and warned of, in Kubernetes' words."""

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery.addresses import block_of, canonical_cidr_errors, canonical_ip_errors
from tests.api.kinds.changes import GONE, Case, Changes, created, status_refused, updated

NET = "networking.k8s.io/v1"
PORT = {"port": 80}
HTTP = {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}
SERVICE: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [PORT]}}
GOOD: dict[str, dict[str, Any]] = {
    "Service": SERVICE,
    "balancer": {**SERVICE, "spec": {"type": "LoadBalancer", "ports": [PORT]}},
    "external": {**SERVICE, "spec": {"type": "ExternalName", "externalName": "a.example.com"}},
    "Endpoints": {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "subsets": [{"addresses": [{"ip": "10.1.0.2"}], "ports": [PORT]}],
    },
    "EndpointSlice": {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.2"]}],
        "ports": [{"name": "a", "port": 80}],
    },
    "NetworkPolicy": {
        "apiVersion": NET,
        "kind": "NetworkPolicy",
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}],
        },
    },
    "Ingress": {"apiVersion": NET, "kind": "Ingress", "spec": {"rules": [{"host": "a.example.com", "http": HTTP}]}},
    "IngressClass": {"apiVersion": NET, "kind": "IngressClass", "spec": {"controller": "acme.io/c"}},
    "ServiceCIDR": {"apiVersion": NET, "kind": "ServiceCIDR", "spec": {"cidrs": ["10.0.0.0/24"]}},
    "IPAddress": {
        "apiVersion": NET,
        "kind": "IPAddress",
        "metadata": {"name": "10.0.0.1"},
        "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "b"}},
    },
}
RANGE = "must be between 1 and 65535, inclusive"
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
NO_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
BALANCER = "may only be used when `type` is 'LoadBalancer'"
SOURCES = "service.beta.kubernetes.io/load-balancer-source-ranges"
BACKEND, PATH = "spec.rules[0].http.paths[0].backend", "spec.rules[0].http.paths[0].path"


def path(**fields: Any) -> Changes:
    return {f"spec.rules.0.http.paths.0.{name}": value for name, value in fields.items()}


def backend(value: Any) -> Changes:
    return {"spec.rules.0.http.paths.0.backend": value}


def peer(value: Any) -> Changes:
    return {"spec.ingress.0.from.0": value}


def policy_port(**value: Any) -> Changes:
    return {"spec.ingress.0.ports.0": value}


INGRESS_PORT, INGRESS_FROM = "spec.ingress[0].ports[0]", "spec.ingress[0].from[0]"
CASES: dict[str, list[Case]] = {
    "Service": [
        ({"metadata.name": "1-is-fine"}, []),
        ({"metadata.name": "a.b"}, ['metadata.name: Invalid value: "a.b": must not contain dots']),
        ({"spec.ports": []}, ["spec.ports: Required value"]),
        ({"spec.ports": [], "spec.clusterIP": "None"}, []),
        ({"spec.ports.0.port": 65536, "spec.ports.0.targetPort": 1},
         [f"spec.ports[0].port: Invalid value: 65536: {RANGE}"]),
        ({"spec.ports.0.protocol": "ICMP"},
         ['spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"']),
        ({"spec.ports.0.targetPort": "a--b"},
         ['spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens']),
        ({"spec.ports.0.targetPort": 70000}, [f"spec.ports[0].targetPort: Invalid value: 70000: {RANGE}"]),
        ({"spec.ports.0.name": "A"}, [f'spec.ports[0].name: Invalid value: "A": {LABEL}']),
        ({"spec.ports.0.appProtocol": "kubernetes.io/h2c"}, []),
        ({"spec.ports": [PORT, {"port": 81}]},
         ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]),
        ({"spec.ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]},
         ['spec.ports[1].name: Duplicate value: "a"']),
        ({"spec.ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
         ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}']),
        ({"spec.ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80, "protocol": "UDP"}]}, []),
        ({"spec.ports.0.nodePort": 30000},
         ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
        ({"spec.type": "NodePort", "spec.ports": [
            {"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]},
         ["spec.ports[1].nodePort: Duplicate value: 30000"]),
        ({"spec.type": "NodePort", "spec.clusterIP": "None"},
         ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"]),
        ({"spec.selector": {"a": "b c"}},
         ["spec.selector: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric "
          "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or "
          "'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"]),
        ({"spec.sessionAffinity": "Cookie"},
         ['spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"']),
        ({"spec.sessionAffinity": "ClientIP"}, []),
        ({"spec.sessionAffinity": "ClientIP", "spec.sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
         ["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less "
          "than 86400"]),
        ({"spec.clusterIP": "10.0.0.300"}, [f'spec.clusterIPs[0]: Invalid value: "10.0.0.300": {NO_IP}']),
        ({"spec.clusterIP": "010.0.0.3"},
         ['spec.clusterIPs[0]: Invalid value: "010.0.0.3": must not have leading 0s']),
        ({"spec.externalIPs": ["1.2.3.4"]}, []),
        ({"spec.externalIPs": ["a"]}, [f'spec.externalIPs[0]: Invalid value: "a": {NO_IP}']),
        ({"spec.externalIPs": ["0.0.0.0", "169.254.1.1", "224.0.0.1"]},
         ['spec.externalIPs[0]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)',
          'spec.externalIPs[1]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, '
          "fe80::/10)",
          'spec.externalIPs[2]: Invalid value: "224.0.0.1": may not be in the link-local multicast range '
          "(224.0.0.0/24, ff02::/10)"]),
        ({"spec.allocateLoadBalancerNodePorts": True}, [f"spec.allocateLoadBalancerNodePorts: Forbidden: {BALANCER}"]),
        ({"spec.loadBalancerClass": "a.io/b"}, [f"spec.loadBalancerClass: Forbidden: {BALANCER}"]),
        ({"spec.externalTrafficPolicy": "Local"},
         ['spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services']),
        ({"spec.internalTrafficPolicy": "Near"},
         ['spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"']),
        ({"spec.trafficDistribution": "PreferSameNode"}, []),
        ({"spec.healthCheckNodePort": 30000},
         ["spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and "
          "`externalTrafficPolicy` is 'Local'"]),
        ({"metadata.annotations": {"service.kubernetes.io/topology-mode": "Auto",
                                   "service.kubernetes.io/topology-aware-hints": "Disabled"}},
         ['metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "Auto": must match '
          "annotations[service.kubernetes.io/topology-aware-hints] when both are specified"]),
        ({"metadata.annotations": {SOURCES: "10.0.0.0/8"}},
         [f"metadata.annotations[{SOURCES}]: Forbidden: {BALANCER}"]),
    ],
    "balancer": [
        ({"spec.loadBalancerSourceRanges": [" 10.0.0.0/8 "]}, []),
        ({"spec.loadBalancerSourceRanges": ["10.0.0.0"]},
         [f'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": {NO_CIDR}']),
        ({"spec.loadBalancerSourceRanges": ["10.0.0.1/8"]},
         ['spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix '
          "length"]),
        ({"metadata.annotations": {SOURCES: "10.0.0.0/8, x"}},
         [f'metadata.annotations[{SOURCES}]: Invalid value: "x": {NO_CIDR}']),
        ({"spec.loadBalancerClass": "a.io/b", "spec.allocateLoadBalancerNodePorts": False}, []),
        ({"spec.externalTrafficPolicy": "Local", "spec.healthCheckNodePort": 32000}, []),
        ({"spec.externalTrafficPolicy": "Wide"},
         ['spec.externalTrafficPolicy: Unsupported value: "Wide": supported values: "Cluster", "Local"']),
    ],
    "external": [
        ({}, []),
        ({"spec.externalName": "a.example.com."}, []),
        ({"spec.externalName": GONE}, ["spec.externalName: Required value"]),
        ({"spec.externalName": "A_b"}, [f'spec.externalName: Invalid value: "A_b": {SUBDOMAIN}']),
        ({"spec.ipFamilyPolicy": "SingleStack"},
         ["spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"]),
    ],
    "Endpoints": [
        ({"subsets.0.addresses": []}, ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        ({"subsets.0.addresses.0.ip": "x"}, [f'subsets[0].addresses[0].ip: Invalid value: "x": {NO_IP}']),
        ({"subsets.0.addresses.0.hostname": "A"}, [f'subsets[0].addresses[0].hostname: Invalid value: "A": {LABEL}']),
        ({"subsets.0.addresses.0.nodeName": "A"},
         [f'subsets[0].addresses[0].nodeName: Invalid value: "A": {SUBDOMAIN}']),
        ({"subsets.0.notReadyAddresses": [{"ip": "::"}]},
         ['subsets[0].notReadyAddresses[0].ip: Invalid value: "::": may not be unspecified (::)']),
        ({"subsets.0.ports": [{"port": 80}, {"name": "b", "port": 0}]},
         ["subsets[0].ports[0].name: Required value", f"subsets[0].ports[1].port: Invalid value: 0: {RANGE}"]),
        ({"subsets.0.ports.0.protocol": "X"},
         ['subsets[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"']),
        ({"subsets.0.ports": []}, []),
    ],
    "EndpointSlice": [
        ({"addressType": GONE}, ["addressType: Required value"]),
        ({"addressType": "IPv5"},
         ['addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"']),
        ({"endpoints.0.addresses": []}, ["endpoints[0].addresses: Required value: must contain at least 1 address"]),
        ({"endpoints.0.addresses": ["fd00::1"]},
         ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address']),
        ({"addressType": "IPv6", "endpoints.0.addresses": ["fd00::1"]}, []),
        ({"addressType": "FQDN", "endpoints.0.addresses": ["a.example.com."]}, []),
        ({"addressType": "FQDN", "endpoints.0.addresses": ["a"]},
         ['endpoints[0].addresses[0]: Invalid value: "a": should be a domain with at least two segments separated by '
          "dots"]),
        ({"endpoints": [{"addresses": ["10.1.0.2"] * 101}]},
         ["endpoints[0].addresses: Too many: 101: must have at most 100 items"]),
        ({"endpoints": [{"addresses": ["10.1.0.2"]}] * 1001},
         ["endpoints: Too many: 1001: must have at most 1000 items"]),
        ({"endpoints.0.hints": {"forZones": [{"name": "a"}, {"name": "a"}]}},
         ['endpoints[0].hints.forZones[1].name: Duplicate value: "a"']),
        ({"endpoints.0.hints": {"forNodes": [{"name": "N"}]}},
         [f'endpoints[0].hints.forNodes[0].name: Invalid value: "N": {SUBDOMAIN}']),
        ({"endpoints.0.hints": {"forZones": [{"name": "a"}] * 9}},
         ["endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"]),
        ({"endpoints.0.nodeName": "N"}, [f'endpoints[0].nodeName: Invalid value: "N": {SUBDOMAIN}']),
        ({"endpoints.0.hostname": "a.b"}, ['endpoints[0].hostname: Invalid value: "a.b": must not contain dots']),
        ({"ports": [{}, {}]}, ['ports[1].name: Duplicate value: ""']),
        ({"ports.0.protocol": "X"},
         ['ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"']),
    ],
    "NetworkPolicy": [
        ({"spec.policyTypes": ["Ingress", "Egress", "Ingress"]},
         ['spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: may not specify more than two '
          "policyTypes"]),
        ({"spec.policyTypes": ["Sideways"]},
         ['spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Ingress", "Egress"']),
        ({"spec.podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
         ["spec.podSelector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or "
          "'DoesNotExist'"]),
        (policy_port(protocol="ICMP"),
         [f'{INGRESS_PORT}.protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"']),
        (policy_port(port=0), [f"{INGRESS_PORT}.port: Invalid value: 0: {RANGE}"]),
        (policy_port(port="web", endPort=5),
         [f"{INGRESS_PORT}.endPort: Invalid value: 5: may not be specified when `port` is non-numeric"]),
        (policy_port(endPort=5),
         [f"{INGRESS_PORT}.endPort: Invalid value: 5: may not be specified when `port` is not specified"]),
        (policy_port(port=80, endPort=79),
         [f"{INGRESS_PORT}.endPort: Invalid value: 80: must be greater than or equal to `port`"]),
        (policy_port(port=80, endPort=70000), [f"{INGRESS_PORT}.endPort: Invalid value: 70000: {RANGE}"]),
        (peer({}), [f"{INGRESS_FROM}: Required value: must specify a peer"]),
        (peer({"podSelector": {}, "namespaceSelector": {}}), []),
        (peer({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
         [f"{INGRESS_FROM}: Forbidden: may not specify both ipBlock and another peer"]),
        (peer({"ipBlock": {"cidr": ""}}), [f"{INGRESS_FROM}.ipBlock.cidr: Required value"]),
        (peer({"ipBlock": {"cidr": "10.0.0.1/8"}}),
         [f'{INGRESS_FROM}.ipBlock.cidr: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix '
          "length"]),
        (peer({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}), []),
        (peer({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "fd00::/64", "x"]}}),
         [f'{INGRESS_FROM}.ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`',
          f'{INGRESS_FROM}.ipBlock.except[1]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`',
          f'{INGRESS_FROM}.ipBlock.except[2]: Invalid value: "fd00::/64": must be a strict subset of `cidr`',
          f'{INGRESS_FROM}.ipBlock.except[3]: Invalid value: "x": {NO_CIDR}']),
    ],
    "Ingress": [
        ({"spec.rules": []}, ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
        ({"spec.rules.0.host": "1.2.3.4"},
         ['spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address']),
        ({"spec.rules.0.host": "*.example.com"}, []),
        ({"spec.rules.0.host": "a.*.com"},
         ['spec.rules[0].host: Invalid value: "a.*.com": a wildcard DNS-1123 subdomain must start with \'*.\', '
          "followed by a valid DNS subdomain, which must consist "
          "of lower case alphanumeric characters, '-' or '.' and end "
          "with an alphanumeric character (e.g. '*.example.com', regex used for validation is "
          r"'\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]),
        ({"spec.rules.0.http": {"paths": []}}, ["spec.rules[0].http.paths: Required value"]),
        (path(pathType="Regex"),
         ['spec.rules[0].http.paths[0].pathType: Unsupported value: "Regex": supported values: "Exact", '
          '"ImplementationSpecific", "Prefix"']),
        (path(path="a"), [f'{PATH}: Invalid value: "a": must be an absolute path']),
        (path(path="/a/.."), [f'{PATH}: Invalid value: "/a/..": cannot end with \'/..\'']),
        (path(path="/a//b"), [f'{PATH}: Invalid value: "/a//b": must not contain \'//\'']),
        (path(path="", pathType="ImplementationSpecific"), []),
        (path(path="/a//b", pathType="ImplementationSpecific"), []),
        (backend({}), [f'{BACKEND}: Invalid value: "": resource or service backend is required']),
        (backend({"service": {"name": "s", "port": {"number": 1}}, "resource": {"kind": "K", "name": "n"}}),
         [f'{BACKEND}: Invalid value: "": cannot set both resource and service backends']),
        (backend({"resource": {"kind": "K", "name": "n"}}), []),
        (backend({"resource": {"kind": "", "name": "a/b", "apiGroup": "A"}}),
         [f'{BACKEND}.resource.apiGroup: Invalid value: "A": {SUBDOMAIN}',
          f"{BACKEND}.resource.kind: Required value: kind is required",
          f"{BACKEND}.resource.name: Invalid value: \"a/b\": may not contain '/'"]),
        (backend({"service": {"name": "s"}}), [f"{BACKEND}: Required value: port name or number is required"]),
        (backend({"service": {"name": "s", "port": {"number": 1, "name": "a"}}}),
         [f'{BACKEND}: Invalid value: "": cannot set both port name & port number']),
        (backend({"service": {"port": {"number": 70000}}}),
         [f"{BACKEND}.service.name: Required value", f"{BACKEND}.service.port.number: Invalid value: 70000: {RANGE}"]),
        ({"spec.tls": [{"hosts": ["B"], "secretName": "S"}]},
         [f'spec.tls[0].hosts[0]: Invalid value: "B": {SUBDOMAIN}',
          f'spec.tls[0].secretName: Invalid value: "S": {SUBDOMAIN}']),
        ({"spec.ingressClassName": "A"}, [f'spec.ingressClassName: Invalid value: "A": {SUBDOMAIN}']),
        ({"spec.ingressClassName": "a", "metadata.annotations": {"kubernetes.io/ingress.class": "b"}},
         ['annotations.kubernetes.io/ingress.class: Invalid value: "b": must match `ingressClassName` when both are '
          "specified"]),
    ],
    "IngressClass": [
        ({"spec.controller": GONE}, ["spec.controller: Required value"]),
        ({"spec.controller": "acme"},
         ['spec.controller: Invalid value: "acme": must be a domain-prefixed path (such as "acme.io/foo")']),
        ({"spec.controller": "a.io/" + "x" * 250}, ["spec.controller: Too long: may not be more than 250 bytes"]),
        ({"spec.parameters": {"kind": "K", "name": "n"}}, []),
        ({"spec.parameters": {"kind": "K", "name": "n", "scope": "Namespace"}},
         ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"]),
        ({"spec.parameters": {"kind": "K", "name": "n", "namespace": "a"}},
         ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]),
        ({"spec.parameters": {"name": "n", "scope": "World"}},
         ["spec.parameters.kind: Required value: kind is required",
          'spec.parameters.scope: Unsupported value: "World": supported values: "Cluster", "Namespace"']),
    ],
    "ServiceCIDR": [
        ({"spec.cidrs": []}, ["spec.cidrs: Required value: at least one CIDR required"]),
        ({"spec.cidrs": ["10.0.0.0/24", "fd00::/64"]}, []),
        ({"spec.cidrs": ["10.0.0.0/24", "10.1.0.0/24"]},
         ['spec.cidrs: Invalid value: {"cidrs":["10.0.0.0/24","10.1.0.0/24"]}: may specify no more than one IP for '
          "each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"]),
        ({"spec.cidrs": ["fd00:0::/64"]},
         ['spec.cidrs[0]: Invalid value: "fd00:0::/64": must be in canonical form ("fd00::/64")']),
        ({"spec.cidrs": ["10.0.0.1/24"]},
         ['spec.cidrs[0]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length']),
    ],
    "IPAddress": [
        ({"metadata.name": "10.0.0.01"}, ['metadata.name: Invalid value: "10.0.0.01": must not have leading 0s']),
        ({"metadata.name": "FD00::1"},
         ['metadata.name: Invalid value: "FD00::1": must be in canonical form ("fd00::1")']),
        ({"metadata.name": "a"}, [f'metadata.name: Invalid value: "a": {NO_IP}']),
        ({"spec.parentRef": GONE}, ["spec.parentRef: Required value"]),
        ({"spec.parentRef": {"group": "A"}},
         [f'spec.parentRef.group: Invalid value: "A": {SUBDOMAIN}', "spec.parentRef.resource: Required value",
          "spec.parentRef.name: Required value"]),
    ],
}  # fmt: skip
IMMUTABLE, ONCE = "field is immutable", "may not change once set"
ADDRESS = {"spec.clusterIP": "10.0.0.1", "spec.clusterIPs": ["10.0.0.1"]}
LOCAL = {"spec.externalTrafficPolicy": "Local", "spec.healthCheckNodePort": 32000}
UPDATES: list[tuple[str, Changes, Changes, list[str]]] = [
    ("Service", ADDRESS, {"spec.clusterIP": "10.0.0.2"},
     [f'spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: {ONCE}']),
    ("Service", ADDRESS, {"spec.type": "NodePort", "spec.ports.0.port": 81}, []),
    ("Service", ADDRESS, {"spec.type": "ExternalName", "spec.externalName": "a.b"}, []),
    ("balancer", {"spec.loadBalancerClass": "a.io/b"}, {"spec.loadBalancerClass": "a.io/c"},
     [f'spec.loadBalancerClass: Invalid value: "a.io/c": {ONCE}']),
    ("balancer", {}, {"spec.loadBalancerClass": "a.io/c"},
     [f'spec.loadBalancerClass: Invalid value: "a.io/c": {ONCE}']),
    ("balancer", LOCAL, {"spec.healthCheckNodePort": 32001}, [f"spec.healthCheckNodePort: Forbidden: {IMMUTABLE}"]),
    ("balancer", LOCAL, {"spec.healthCheckNodePort": GONE}, []),
    ("EndpointSlice", {}, {"addressType": "FQDN", "endpoints": []},
     [f'addressType: Invalid value: "FQDN": {IMMUTABLE}']),
    ("IngressClass", {}, {"spec.controller": "acme.io/d"},
     [f'spec.controller: Invalid value: "acme.io/d": {IMMUTABLE}']),
    ("IPAddress", {}, {"spec.parentRef.name": "c"},
     ['spec.parentRef: Invalid value: {"name":"c","namespace":"a","resource":"services"}: field is immutable']),
    ("ServiceCIDR", {}, {"spec.cidrs": ["10.0.0.0/16"]},
     [f'spec.cidrs: Invalid value: ["10.0.0.0/16"]: {IMMUTABLE}']),
    ("Ingress", {}, {"spec.ingressClassName": "b", "metadata.annotations": {"kubernetes.io/ingress.class": "c"}}, []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "changes", "found"), UPDATES)
def test_what_is_wrong_with_changes(kind: str, before: Changes, changes: Changes, found: list[str]) -> None:
    assert updated(GOOD[kind], before, changes)[1] == found


OLD_BALANCER: Changes = {
    "spec.clusterIP": "010.0.0.1", "spec.clusterIPs": ["010.0.0.1"], "spec.externalIPs": ["::ffff:1.2.3.4"],
    "spec.loadBalancerSourceRanges": [" 10.0.0.1/8"],
}  # fmt: skip
OLD_SLICE: Changes = {"endpoints": [{"addresses": ["10.01.0.2"]}, {"addresses": ["10.1.0.3"]}]}
OLD_SUBSETS: Changes = {"subsets.0.addresses.0.ip": "10.01.0.2"}
OLD_POLICY = peer({"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.01.0.0/16"]}})
ZEROS, BITS = "must not have leading 0s", "must not have bits set beyond the prefix length"
IP_BLOCK, LABELLED = f"{INGRESS_FROM}.ipBlock", {"metadata.labels": {"a": "b"}}
OLD_ADDRESSES: list[tuple[str, Changes, Changes, list[str]]] = [
    ("balancer", OLD_BALANCER, LABELLED | {"spec.ports.0.port": 81}, []),
    ("balancer", OLD_BALANCER, {"spec.externalIPs.1": "1.2.3.04"},
     [f'spec.externalIPs[1]: Invalid value: "1.2.3.04": {ZEROS}']),
    ("balancer", OLD_BALANCER, {"spec.loadBalancerSourceRanges": ["10.0.0.1/8", "10.0.0.2/8"]},
     [f'spec.LoadBalancerSourceRanges[1]: Invalid value: "10.0.0.2/8": {BITS}']),
    ("balancer", {"spec.externalIPs": ["nowhere"]}, LABELLED,
     [f'spec.externalIPs[0]: Invalid value: "nowhere": {NO_IP}']),
    ("balancer", {"spec.externalIPs": ["169.254.0.01"]}, LABELLED,
     ['spec.externalIPs[0]: Invalid value: "169.254.0.01": may not be in the link-local range '
      "(169.254.0.0/16, fe80::/10)"]),
    ("balancer", {"metadata.annotations": {SOURCES: "10.0.0.1/8, 1.0.0.0/8"}}, LABELLED, []),
    ("balancer", {"metadata.annotations": {SOURCES: "10.0.0.1/8"}}, {"metadata.annotations": {SOURCES: "10.0.0.2/8"}},
     [f'metadata.annotations[{SOURCES}]: Invalid value: "10.0.0.2/8": {BITS}']),
    ("Endpoints", OLD_SUBSETS, LABELLED, []),
    ("Endpoints", OLD_SUBSETS, {"subsets.0.ports.0.port": 81},
     [f'subsets[0].addresses[0].ip: Invalid value: "10.01.0.2": {ZEROS}']),
    ("EndpointSlice", OLD_SLICE, {"ports.0.port": 81}, []),
    ("EndpointSlice", OLD_SLICE, {"endpoints.1.addresses.0": "10.1.0.4"},
     [f'endpoints[0].addresses[0]: Invalid value: "10.01.0.2": {ZEROS}']),
    ("EndpointSlice", OLD_SLICE, {"ports.0.name": "A"}, [f'ports[0].name: Invalid value: "A": {LABEL}']),
    ("NetworkPolicy", OLD_POLICY, {"spec.ingress.0.from.1": {"ipBlock": {"cidr": "10.0.0.1/8"}}}, []),
    ("NetworkPolicy", OLD_POLICY, {"spec.ingress.0.from.0.ipBlock.cidr": "10.0.0.2/8"},
     [f'{IP_BLOCK}.cidr: Invalid value: "10.0.0.2/8": {BITS}']),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "changes", "found"), OLD_ADDRESSES)
def test_addresses_that_were_taken_once_are_no_hindrance(
    kind: str, before: Changes, changes: Changes, found: list[str]
) -> None:
    assert updated(GOOD[kind], before, changes, sound=False)[1] == found


def balanced(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"loadBalancer": {"ingress": list(entries)}}


AT = "status.loadBalancer.ingress"
STATUSES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("balancer", balanced({"ip": "1.2.3.4"}, {"hostname": "a.b"}), []),
    ("balancer", balanced({"ip": "x"}), [f'{AT}[0].ip: Invalid value: "x": {NO_IP}']),
    ("balancer", balanced({"ip": "1.2.3.4", "ipMode": "Odd"}),
     [f'{AT}[0].ipMode: Unsupported value: "Odd": supported values: "Proxy", "VIP"']),
    ("balancer", balanced({"hostname": "a", "ipMode": "VIP"}),
     [f"{AT}[0].ipMode: Forbidden: may not be specified when `ip` is not set"]),
    ("balancer", balanced({"hostname": "1.2.3.4"}),
     [f'{AT}[0].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address']),
    ("Service", balanced({"ip": "1.2.3.4"}),
     [f"{AT}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]),
    ("Ingress", balanced({"ip": "1.2.3.4", "hostname": "a"}), []),
    ("Ingress", balanced({"ip": "y"}), [f'{AT}[0].ip: Invalid value: "y": {NO_IP}']),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "after", "found"), STATUSES)
def test_what_is_wrong_with_statuses(kind: str, after: dict[str, Any], found: list[str]) -> None:
    assert status_refused(GOOD[kind], {}, after) == found


@pytest.mark.parametrize("kind", ["balancer", "Ingress"])
def test_addresses_of_a_balancer_that_were_taken_once_are_no_hindrance(kind: str) -> None:
    before = balanced({"ip": "1.2.3.04"})
    assert status_refused(GOOD[kind], before, balanced({"ip": "1.2.3.4"}, {"ip": "1.2.3.04"})) == []
    text = f'{AT}[0].ip: Invalid value: "1.2.3.05": {ZEROS}'
    assert status_refused(GOOD[kind], before, balanced({"ip": "1.2.3.05"})) == [text]


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("Service", {"spec.externalIPs": ["FD00::1"]},
         ["spec.externalIPs is deprecated",
          'spec.externalIPs[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")']),
        ("Service", {"spec.clusterIP": "None", "spec.loadBalancerIP": "1.2.3.4", "spec.externalName": "a"},
         ['spec.loadBalancerIP is ignored when spec.clusterIP is "None"',
          'spec.externalName is ignored when spec.type is not "ExternalName"']),
        ("balancer", {"spec.loadBalancerSourceRanges": ["FD00::/64"]},
         ['spec.loadBalancerSourceRanges[0]: IPv6 CIDR value "FD00::/64" should be in RFC 5952 canonical format '
          '("fd00::/64")']),
        ("Endpoints", {"subsets.0.addresses.0.ip": "FD00::1"},
         ['subsets[0].addresses[0].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")']),
        ("NetworkPolicy", peer({"ipBlock": {"cidr": "FD00::/64"}}),
         ['spec.ingress[0].from[0].ipBlock.cidr: IPv6 CIDR value "FD00::/64" should be in RFC 5952 canonical format '
          '("fd00::/64")']),
    ],
)  # fmt: skip
def test_what_is_warned_of(kind: str, changes: Changes, told: list[str]) -> None:
    obj, problems = created(GOOD[kind], changes)
    group = obj["apiVersion"].rpartition("/")[0]
    assert problems == [] and list(rules_of(group, obj["kind"]).warnings(obj, None)) == told


def test_what_an_older_version_told_of_places_goes() -> None:
    slice_ = created(GOOD["EndpointSlice"], {"endpoints.0.deprecatedTopology": {"a": "b"}})[0]
    assert slice_["endpoints"] == [{"addresses": ["10.1.0.2"]}]


def test_forms_of_addresses() -> None:
    assert canonical_ip_errors("::ffff:1.2.3.4") == ("must not be an IPv4-mapped IPv6 address",)
    assert canonical_ip_errors("0" * 5_000 + ".0.0.0") != () != canonical_ip_errors("fe80::1%eth0")
    assert canonical_cidr_errors("010.0.0.0/8") == ("must not have leading 0s in IP or prefix length",)
    assert canonical_cidr_errors("10.0.0.0/08") == ("must not have leading 0s in IP or prefix length",)
    assert canonical_cidr_errors("::ffff:1.2.3.4/128") == ("must not have an IPv4-mapped IPv6 address",)
    assert str(block_of("010.1.0.0/8")) == "10.0.0.0/8" and block_of("10.0.0.0/33") is None
