"""Stock clients in Python, as their users call them: the official ones, lightkube, kr8s and a kopf operator."""

import contextlib
import gc
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kr8s
import kr8s.objects
import kubernetes
import kubernetes.dynamic
import kubernetes.stream
import kubernetes.utils
import kubernetes.watch
import kubernetes_asyncio
import kubernetes_asyncio.stream
import kubernetes_asyncio.watch
import lightkube
import lightkube.codecs
import pytest
import yaml
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap

from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.harness import Cluster, Kubectl, until

# Answers on port 8080 of the pod.
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{self.command} {self.path}".encode())
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
"""
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "server",
                "image": "python",
                "command": ["python", "-c", f"print('begun', flush=True){SERVER}"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }
        ],
    },
}
"""A pod that really runs."""

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "app"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "app"}},
        "template": {
            "metadata": {"labels": {"app": "app"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        },
    },
}


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Iterator[Cluster]:
    cluster = bring_up(
        "--host", "process", "--runtime", "process", "--members", "1", "--apiservers", "2", "--nodes", "1"
    )
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = cluster.env["KUBECONFIG"]
    yield cluster
    os.environ.pop("KUBECONFIG")
    if before is not None:
        os.environ["KUBECONFIG"] = before


@pytest.fixture
def kubectl(cluster: Cluster, fresh_namespace: Callable[..., Kubectl], request: pytest.FixtureRequest) -> Kubectl:
    return fresh_namespace(cluster, "", str(request.node.originalname).replace("_", "-"))


@pytest.fixture
def web(kubectl: Kubectl) -> Kubectl:
    """With the pod, which is ready."""
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(POD))
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=180s")
    return kubectl


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


def leaves_sockets(test: Callable[..., Any]) -> Callable[..., Any]:
    """For a test of a client that leaves connections of its streams to the collector, which finds them in this test."""
    for mark in (
        pytest.mark.usefixtures("collected"),
        pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
    ):
        test = mark(test)
    return test


@pytest.fixture
def official(cluster: Cluster) -> Iterator[kubernetes.client.ApiClient]:
    with kubernetes.config.new_client_from_config(cluster.env["KUBECONFIG"]) as client:
        yield client


def lists_of(api: Any) -> Iterator[tuple[str, Callable[..., Any], list[str]]]:
    """The list methods of a group's class that need no more than a namespace."""
    for name, method in inspect.getmembers(api, inspect.ismethod):
        if name.startswith("list_") and not name.endswith("_with_http_info"):
            parameters = inspect.signature(method).parameters.values()
            needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
            if needed in ([], ["namespace"]):
                yield name, method, ["default"] * len(needed)


@pytest.mark.turn(0, of=2)
def test_the_official_client_reads_every_list_of_every_served_group(official: kubernetes.client.ApiClient) -> None:
    groups = kubernetes.client.ApisApi(official).get_api_versions().groups
    versions = {"v1"} | {version.group_version for group in groups for version in group.versions}
    read = 0
    kinds: list[tuple[str, Any]] = inspect.getmembers(kubernetes.client, inspect.isclass)
    for name, kind in kinds:
        if not name.endswith("Api") or name == "CustomObjectsApi" or not hasattr(kind, "get_api_resources"):
            continue
        api = kind(official)
        try:
            served = api.get_api_resources().group_version
        except kubernetes.client.ApiException as e:
            assert e.status == 404
            continue
        assert served in versions
        for method, call, arguments in lists_of(api):
            # This client wants a time that events of older recorders do not have, nor need to.
            if "event" not in method and method != "list_component_status":
                call(*arguments, limit=5)
                read += 1
    assert read > 80


def test_the_official_client_creates_watches_and_deletes(
    kubectl: Kubectl, official: kubernetes.client.ApiClient
) -> None:
    core, space = kubernetes.client.CoreV1Api(official), kubectl.namespace
    kinds = kubernetes.client
    made = core.create_namespaced_config_map(
        space, kinds.V1ConfigMap(metadata=kinds.V1ObjectMeta(name="a"), data={"x": "y"})
    )
    core.patch_namespaced_config_map("a", space, {"data": {"z": "1"}})
    core.delete_namespaced_config_map("a", space)
    watch = kubernetes.watch.Watch()
    types = []
    metadata: Any = made.metadata
    version = str(int(metadata.resource_version) - 1)
    for event in watch.stream(
        core.list_namespaced_config_map, space, field_selector="metadata.name=a", resource_version=version
    ):
        types.append(event["type"])
        if event["type"] == "DELETED":
            watch.stop()
    assert types == ["ADDED", "MODIFIED", "DELETED"]


@leaves_sockets
def test_the_official_client_streams(web: Kubectl, official: kubernetes.client.ApiClient) -> None:
    core, space = kubernetes.client.CoreV1Api(official), web.namespace
    execute = core.connect_get_namespaced_pod_exec
    said = kubernetes.stream.stream(
        execute, "web", space, command=["sh", "-c", "echo out"], stdout=True, stderr=True, stdin=False, tty=False
    )
    assert said == "out\n"
    session = kubernetes.stream.stream(
        execute, "web", space, command=["sh", "-c", "read a; read b; echo $a $b; exit 3"],
        stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False,
    )  # fmt: skip
    session.write_stdin("text\n")
    session.write_stdin(b"bytes\n")
    session.run_forever(timeout=30)
    assert (session.read_stdout(), session.returncode) == ("text bytes\n", 3)
    session.close()
    forward = kubernetes.stream.portforward(core.connect_get_namespaced_pod_portforward, "web", space, ports="8080")
    with contextlib.closing(forward.socket(8080)) as connection:
        connection.setblocking(True)
        connection.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.endswith(b"GET /hello") and forward.error(8080) is None
    assert core.read_namespaced_pod_log("web", space).startswith("begun\n")
    for name in ("web", "web:8080", "http:web:"):
        assert core.connect_get_namespaced_pod_proxy_with_path(name, space, "path") == "GET /path"
    web("expose", "pod", "web", "--port=80", "--target-port=http")
    proxy = core.connect_get_namespaced_service_proxy_with_path
    until("an endpoint", lambda: web("get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].addresses}"))
    assert proxy("web", space, "x") == proxy("web:80", space, "x") == "GET /x"


def test_the_dynamic_client(kubectl: Kubectl, official: kubernetes.client.ApiClient) -> None:
    space = kubectl.namespace
    kubernetes.utils.create_from_dict(official, DEPLOYMENT, namespace=space)
    dynamic = kubernetes.dynamic.DynamicClient(official)
    deployments = dynamic.resources.get(api_version="apps/v1", kind="Deployment")
    for event in deployments.watch(namespace=space, timeout=60):
        if event["object"].status.readyReplicas == 2:
            break
    deployments.server_side_apply(
        {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": 3}},  # type: ignore[dict-item]
        namespace=space, field_manager="me", force_conflicts=True,
    )  # fmt: skip
    merge = "application/merge-patch+json"
    deployments.scale.patch(body={"spec": {"replicas": 4}}, name="app", namespace=space, content_type=merge)
    assert deployments.get(name="app", namespace=space).spec.replicas == 4


ELECTION = """
import sys
from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

config.load_kube_config()
lock = LeaseLock("lock", sys.argv[1], "me")
settings = electionconfig.Config(
    lock, lease_duration=5, renew_deadline=4, retry_period=1,
    onstarted_leading=lambda: print("leads", flush=True), onstopped_leading=None,
)
leaderelection.LeaderElection(settings).run()
"""


def test_leaders_are_elected(kubectl: Kubectl) -> None:
    command = [sys.executable, "-c", ELECTION, kubectl.namespace]
    with subprocess.Popen(command, env=os.environ | kubectl.cluster.env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "leads" in iter(lambda: process.stdout.readline().strip(), "")  # type: ignore[union-attr]
            assert kubectl("get", "lease", "lock", "-o", "jsonpath={.spec.holderIdentity}") == "me"
        finally:
            process.kill()


async def test_the_asynchronous_client(web: Kubectl) -> None:
    await kubernetes_asyncio.config.load_kube_config(web.cluster.env["KUBECONFIG"])
    async with kubernetes_asyncio.client.ApiClient() as client:
        core = kubernetes_asyncio.client.CoreV1Api(client)
        async with kubernetes_asyncio.watch.Watch().stream(core.list_namespaced_pod, web.namespace) as events:
            async for event in events:
                assert (event["type"], event["object"].metadata.name) == ("ADDED", "web")
                break
    async with kubernetes_asyncio.stream.WsApiClient() as streaming:
        core = kubernetes_asyncio.client.CoreV1Api(streaming)
        said = await core.connect_get_namespaced_pod_exec(
            "web",
            web.namespace,
            command=["echo", "hi"],  # type: ignore[arg-type]
            stderr=True,
            stdin=False,
            stdout=True,
            tty=False,
        )
        assert said == "hi\n"


def test_lightkube(web: Kubectl) -> None:
    space = web.namespace
    client = lightkube.Client(namespace=space, field_manager="test")
    client.create(ConfigMap(metadata=ObjectMeta(name="a"), data={"a": "1"}))
    client.patch(ConfigMap, "a", {"data": {"b": "2"}})
    settings = client.get(ConfigMap, "a")
    assert settings.data == {"a": "1", "b": "2"}
    settings.data["c"] = "3"
    client.replace(settings)
    for kind, found in client.watch(ConfigMap, resource_version="0", fields={"metadata.name": "a"}):
        assert found.data is not None
        assert (kind, found.data["c"]) == ("ADDED", "3")
        break
    for one in lightkube.codecs.load_all_yaml(yaml.safe_dump(DEPLOYMENT)):
        client.apply(one)
    client.wait(Deployment, "app", for_conditions=["Available"])
    scale = client.get(Deployment.Scale, "app")
    assert scale.spec is not None
    scale.spec.replicas = 3
    client.replace(scale, name="app")
    assert client.get(Deployment, "app").spec.replicas == 3
    assert next(iter(client.log("web"))) == "begun\n"
    done = client.exec("web", command=["sh", "-c", "echo hi; exit 3"], stdout=True)
    assert (done.stdout, done.exit_code) == ("hi\n", 3)
    with pytest.raises(lightkube.ApiError) as refused:
        client.get(ConfigMap, "none")
    assert refused.value.status.reason == "NotFound"


@leaves_sockets
@pytest.mark.filterwarnings("ignore:Kubernetes version:UserWarning")
def test_kr8s(web: Kubectl) -> None:
    api = kr8s.api(kubeconfig=web.cluster.env["KUBECONFIG"], namespace=web.namespace)
    deployment = kr8s.objects.Deployment(
        {**DEPLOYMENT, "metadata": {"name": "app", "namespace": web.namespace}}, api=api
    )
    deployment.create()
    deployment.wait("condition=Available")
    deployment.scale(3)
    deployment.label({"x": "y"})
    deployment.patch({"spec": {"replicas": 1}})
    listed: Any = api.get("deployments", label_selector="x=y")
    assert [d.name for d in listed] == ["app"]
    pod = kr8s.objects.Pod.get("web", namespace=web.namespace, api=api)
    done = pod.exec(["sh", "-c", "echo hi; echo err >&2"])
    assert (done.stdout, done.stderr, done.returncode) == (b"hi\n", b"err\n", 0)
    assert next(iter(pod.logs())) == "begun"
    for event, found in api.watch("pods", field_selector="metadata.name=web"):
        assert (event, found.name) == ("ADDED", "web")
        break
    deployment.delete(propagation_policy="Foreground")
    deployment.wait("delete")


OPERATOR = """
import os
import kopf

@kopf.on.startup()
def configure(settings, **_):
    settings.peering.name = "operators"
    settings.peering.mandatory = True
    files = {f"{part}file": f"{os.environ['CERTIFICATE']}/{name}" for part, name in
             (("ca", "ca.crt"), ("cert", "tls.crt"), ("pkey", "tls.key"))}
    settings.admission.server = kopf.WebhookServer(addr="127.0.0.1", host="127.0.0.1", **files)
    settings.admission.managed = "auto.kopf.dev"

@kopf.on.mutate("example.dev", "v1", "things")
def complete(spec, patch, **_):
    if "color" not in spec:
        patch.spec["color"] = "blue"

@kopf.on.validate("example.dev", "v1", "things", operations=["CREATE", "UPDATE"])
def check(spec, warnings, **_):
    warnings.append("things are deprecated")
    if spec["size"] > 9:
        raise kopf.AdmissionError("a thing is no larger than 9", code=422)

@kopf.on.create("example.dev", "v1", "things")
def create(spec, **_):
    return {"size": spec["size"]}

@kopf.on.update("example.dev", "v1", "things")
def update(spec, patch, **_):
    patch.status["updated"] = spec["size"]

@kopf.on.field("example.dev", "v1", "things", field="spec.size")
def resized(old, new, patch, **_):
    patch.status["resized"] = f"{old} to {new}"

@kopf.timer("example.dev", "v1", "things", interval=0.3)
def tick(patch, status, **_):
    patch.status["ticks"] = status.get("ticks", 0) + 1

@kopf.daemon("example.dev", "v1", "things")
async def watchman(stopped, **_):
    print("watching", flush=True)
    await stopped.wait()

@kopf.on.delete("example.dev", "v1", "things")
def delete(**_):
    print("deleted", flush=True)
"""


def definition(group: str, plural: str, kind: str, scope: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [version],
        },
    }


@contextlib.contextmanager
def operator(cluster: Cluster, program: Path, namespace: str) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """The operator runs; the file that it writes its output to, and its process."""
    log = program.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "kopf", "run", "--namespace", namespace, str(program)],
            env=os.environ | cluster.env | {"CERTIFICATE": str(program.parent)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log, process
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.turn(1, of=2)
def test_an_operator_of_kopf(kubectl: Kubectl, tmp_path: Path) -> None:
    definitions = [
        definition("kopf.dev", "kopfpeerings", "KopfPeering", "Namespaced"),
        definition("example.dev", "things", "Thing", "Namespaced"),
    ]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(definitions))
    kubectl("wait", "--for=condition=Established", *(f"crd/{d['metadata']['name']}" for d in definitions))
    peering = {"apiVersion": "kopf.dev/v1", "kind": "KopfPeering", "metadata": {"name": "operators"}}
    thing = {"apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "one"}, "spec": {"size": 1}}
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([peering, thing]))
    program = tmp_path / "operator.py"
    program.write_text(OPERATOR)
    Authority.create("operators").issue("operator", hosts=["127.0.0.1"]).write(tmp_path)
    webhooks = ("mutatingwebhookconfiguration/auto.kopf.dev", "validatingwebhookconfiguration/auto.kopf.dev")
    with operator(kubectl.cluster, program, kubectl.namespace) as (log, process):
        kubectl.until("thing one", "{.status.create.size}", ["1"])
        until("completed", lambda: kubectl.json("get", "thing", "one")["spec"].get("color") == "blue")
        refused = kubectl("patch", "thing", "one", "--type=merge", "-p", '{"spec":{"size":10}}', code=1)
        assert "denied the request: a thing is no larger than 9" in refused
        kubectl("patch", "thing", "one", "--type=merge", "-p", '{"spec":{"size":2}}')
        kubectl.until("thing one", "{.status.updated}/{.status.resized}", ["2/1 to 2"])
        # An API server that dies is no matter: what was asked of it is asked of the other.
        kubectl.cluster.rayplane("chaos", "kill", "apiserver", "random")
        seen = kubectl.json("get", "thing", "one")["status"].get("ticks", 0)
        refused = kubectl("patch", "thing", "one", "--type=merge", "-p", '{"spec":{"size":11}}', code=1)
        assert "denied the request: a thing is no larger than 9" in refused
        kubectl("patch", "thing", "one", "--type=merge", "-p", '{"spec":{"size":3}}')
        kubectl.until("thing one", "{.status.updated}/{.status.resized}", ["3/2 to 3"])
        until("ticks", lambda: kubectl.json("get", "thing", "one")["status"].get("ticks", 0) > seen + 2)
        kubectl("delete", "thing", "one", "--timeout=180s")
        assert {"watching", "deleted"} <= {*log.read_text().split()}
        assert kubectl.json("get", "kopfpeering", "operators")["status"]
        # Its webhooks fail closed when it dies, and that is all that stands.
        process.kill()
        process.wait(30)
    try:
        refused = kubectl("create", "-f", "-", stdin=yaml.safe_dump(thing), code=1)
        assert "failed calling webhook" in refused and "connection refused" in refused
        kubectl("create", "configmap", "other")
    finally:
        kubectl("delete", *webhooks)
    kubectl("create", "-f", "-", stdin=yaml.safe_dump(thing))
