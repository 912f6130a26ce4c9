"""The process runtime: containers are processes of this machine, and traffic, logs and volumes are real."""

import base64
import os
import pty
import select
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.harness import COMMAND_TIMEOUT_S, Cluster, Kubectl, listeners, listens, unlisted, until

# Answers with the pod's name, `/file?PATH` with a file, `/env?NAME` with a variable; dies of `/die`.
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, what = self.path.partition("?")
        if path == "/die":
            os._exit(3)
        text = os.environ["HOSTNAME"]
        if path == "/env":
            text = os.environ.get(what, "")
        if path == "/file":
            text = open(os.environ["RAYPLANE_ROOT"] + what).read()
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print(self.path, flush=True)
print("ready to serve", flush=True)
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    # Programs of this machine, at addresses that this machine reaches.
    small = ("--members", "1", "--apiservers", "1", "--nodes", "3")
    return bring_up("--host", "process", "--runtime", "process", "--isolation", "none", *small)


@pytest.fixture
def kubectl(cluster: Cluster, fresh_namespace: Callable[..., Kubectl], request: pytest.FixtureRequest) -> Kubectl:
    return fresh_namespace(cluster, "", str(request.node.name).replace("_", "-"))


def apply(kubectl: Kubectl, *objects: dict[str, Any]) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


def container(**more: Any) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1}
    return {
        "name": "server",
        "image": "python",
        "command": ["python", "-c", SERVER],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": probe,
    } | more


def deployment(name: str, replicas: int, pod: dict[str, Any]) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1} | pod},
        },
    }


def service(name: str, kind: str = "ClusterIP", port: int = 9000) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": port, "targetPort": "http"}]},
    }


def fetch(url: str, host: str = "") -> str:
    """The body; empty when nobody answers well."""
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def test_services_and_ingress_carry_real_requests(kubectl: Kubectl) -> None:
    rule = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 9000}}}}
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "web.example", "http": {"paths": [rule]}}]},
    }
    apply(kubectl, deployment("web", 3, {"containers": [container()]}), service("web", "LoadBalancer"), ingress)
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    pods = {p["metadata"]["name"] for p in kubectl.items("pods")}
    found = kubectl.json("get", "service", "web")
    cluster_ip, node_port = found["spec"]["clusterIP"], found["spec"]["ports"][0]["nodePort"]
    external = found["status"]["loadBalancer"]["ingress"][0]["ip"]
    node = kubectl.items("nodes")[0]["status"]["addresses"][0]["address"]
    entrance = kubectl.cluster.endpoints()["ingress"]
    for url, host in (
        (f"http://{cluster_ip}:9000/", ""),
        (f"http://{external}:9000/", ""),
        (f"http://{node}:{node_port}/", ""),
        (f"{entrance}/any/path", "web.example"),
    ):
        seen: set[str] = set()

        def all_pods_answer(url: str = url, host: str = host, seen: set[str] = seen) -> bool:
            seen.add(fetch(url, host))
            return pods <= seen

        until(f"every pod answers at {url}", all_pods_answer)
    assert fetch(f"{entrance}/", "unknown.example") == ""
    assert (cluster_ip, 9000) in listeners(kubectl.cluster)
    assert unlisted(kubectl.cluster) == []
    # The address stays while the pods go and come.
    kubectl("rollout", "restart", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    until("a new pod answers", lambda: fetch(f"http://{cluster_ip}:9000/") not in pods | {""})
    kubectl("scale", "deployment/web", "--replicas=0")
    until("nobody listens", lambda: not listens(cluster_ip, 9000))


def test_logs_and_exec(kubectl: Kubectl) -> None:
    apply(kubectl, deployment("web", 1, {"containers": [container()]}))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    assert "ready to serve" in kubectl("logs", "deployment/web")
    assert kubectl("logs", "deployment/web", "--tail=1", "--timestamps").startswith("20")
    pod = kubectl.names("pods")[0]
    assert kubectl("exec", pod, "--", "sh", "-c", 'echo "$HOSTNAME"').strip() == pod.partition("/")[2]
    assert kubectl("exec", "-i", pod, "--", "cat", stdin="to and back") == "to and back"
    assert "exit code 7" in kubectl("exec", pod, "--", "sh", "-c", "exit 7", code=7)


def test_settings_reach_a_container_as_variables_and_as_files(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "conf", "--from-literal=color=blue", "--from-literal=motd=hello")
    kubectl("create", "secret", "generic", "hidden", "--from-literal=password=s3cret")
    server = container(
        env=[{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}}],
        envFrom=[{"configMapRef": {"name": "conf"}, "prefix": "CONF_"}],
        volumeMounts=[{"name": "conf", "mountPath": "/etc/conf"}, {"name": "hidden", "mountPath": "/etc/hidden"}],
    )
    volumes = [
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "hidden", "secret": {"secretName": "hidden"}},
    ]
    apply(kubectl, deployment("web", 1, {"containers": [server], "volumes": volumes}))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    url = f"http://{kubectl.items('pods')[0]['status']['podIP']}:8000"
    assert fetch(f"{url}/env?PASSWORD") == "s3cret"
    assert fetch(f"{url}/env?CONF_color") == "blue"
    assert fetch(f"{url}/file?/etc/conf/motd") == "hello"
    assert fetch(f"{url}/file?/etc/hidden/password") == "s3cret"
    # Files follow the object, variables do not.
    kubectl("patch", "configmap", "conf", "-p", '{"data":{"motd":"goodbye","color":"red"}}')
    until("the file follows", lambda: fetch(f"{url}/file?/etc/conf/motd") == "goodbye")
    assert fetch(f"{url}/env?CONF_color") == "blue"


def test_a_crashed_container_is_started_again_with_back_off(kubectl: Kubectl) -> None:
    apply(kubectl, deployment("web", 1, {"containers": [container()]}))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    pod = kubectl.items("pods")[0]
    fetch(f"http://{pod['status']['podIP']}:8000/die")
    name = pod["metadata"]["name"]
    kubectl.until(f"pod {name}", "{.status.containerStatuses[0].restartCount}", ["1"])
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s")
    status = kubectl.json("get", "pod", name)["status"]
    assert status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3
    assert status["podIP"] == pod["status"]["podIP"]
    assert "ready to serve" in kubectl("logs", name, "--previous")

    kubectl("run", "hopeless", "--image=python", "--command", "--", "sh", "-c", "exit 1")
    waiting = "{.status.containerStatuses[0].state.waiting.reason}"
    kubectl.until("pod hopeless", waiting, ["CrashLoopBackOff"])
    until("an event says so", lambda: "Back-off restarting" in kubectl("events", "--for", "pod/hopeless"))


def test_a_pod_that_comes_back_has_a_new_address(kubectl: Kubectl) -> None:
    apply(kubectl, deployment("web", 1, {"containers": [container()]}), service("web"))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    before = kubectl.items("pods")[0]
    address = kubectl.json("get", "service", "web")["spec"]["clusterIP"]
    kubectl("delete", "pod", before["metadata"]["name"], "--timeout=180s")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    after = kubectl.items("pods")[0]
    assert after["status"]["podIP"] != before["status"]["podIP"]
    until("the service leads to the new pod", lambda: fetch(f"http://{address}:9000/") == after["metadata"]["name"])


def claim(name: str, storage_class: str, size: str = "32Mi") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        },
    }


def user_of(name: str, claim_name: str) -> dict[str, Any]:
    """A Deployment of one pod that waits with the claim at /data."""
    waits = {
        "name": "user",
        "image": "busybox",
        "command": ["sleep", "1000000"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name}}]
    made = deployment(name, 1, {"containers": [waits], "volumes": volumes})
    made["spec"]["strategy"] = {"type": "Recreate"}
    return made


def write_and_sync(kubectl: Kubectl, target: str, text: str) -> None:
    barrier = (
        "import os, socket\n"
        f"open(os.environ['RAYPLANE_MOUNT_DATA'] + '/file', 'w').write({text!r})\n"
        "if os.environ.get('RAYPLANE_VOLUME_SYNC'):\n"
        "    conn = socket.socket(socket.AF_UNIX); conn.connect(os.environ['RAYPLANE_VOLUME_SYNC'])\n"
        "    conn.sendall(b'sync\\n'); print(conn.makefile().readline())\n"
    )
    kubectl("exec", target, "--", "python", "-c", barrier)


@pytest.mark.parametrize("storage_class", ["standard", "replicated"])
def test_bytes_survive_the_restart_of_their_pod(
    cluster: Cluster, fresh_namespace: Callable[..., Kubectl], storage_class: str
) -> None:
    kubectl = fresh_namespace(cluster, "", f"restart-{storage_class}")
    apply(kubectl, claim("data", storage_class), user_of("keeper", "data"))
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    write_and_sync(kubectl, "deployment/keeper", "precious")
    first = kubectl.names("pods")[0]
    kubectl("delete", first, "--timeout=180s")
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    assert kubectl.names("pods") != [first]
    assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"


def test_replicated_bytes_follow_their_pod_to_another_node(kubectl: Kubectl) -> None:
    apply(kubectl, claim("data", "replicated"), user_of("keeper", "data"))
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    write_and_sync(kubectl, "deployment/keeper", "precious")
    node = kubectl.items("pods")[0]["spec"]["nodeName"]
    kubectl("cordon", node)
    try:
        kubectl("delete", "pods", "--all", "--timeout=180s")
        kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
        assert kubectl.items("pods")[0]["spec"]["nodeName"] != node
        assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"
    finally:
        kubectl("uncordon", node)


def test_a_claim_that_fits_nowhere_stays_pending_and_says_why(kubectl: Kubectl) -> None:
    apply(kubectl, claim("huge", "replicated", "900Ti"), user_of("keeper", "huge"))
    until("an event", lambda: "ProvisioningFailed" in kubectl("events", "--for", "persistentvolumeclaim/huge"))
    assert kubectl.json("get", "pvc", "huge")["status"]["phase"] == "Pending"


def typed(kubectl: Kubectl, *arguments: str, text: str) -> str:
    """What a person sees who types `text` into a kubectl at a terminal, until it ends."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        kubectl.command(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=kubectl.cluster.env,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, text.encode())
    seen, end = b"", time.monotonic() + COMMAND_TIMEOUT_S
    try:
        while select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
            seen += os.read(ours, 4096)
    except OSError:
        # The terminal's last user is gone.
        process.wait(COMMAND_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode()


def test_a_person_debugs_a_running_pod_at_a_terminal(kubectl: Kubectl) -> None:
    apply(kubectl, deployment("web", 1, {"containers": [container()]}))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    (pod,) = kubectl.names("pods")
    seen = typed(kubectl, "debug", "-it", pod, "--image=busybox", "-c", "look", text="echo found-$((40+2)); exit 3\n")
    assert "found-42" in seen
    kubectl.until(pod, "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}", ["3"])
    assert kubectl("get", pod, "-o", "jsonpath={.status.phase}") == "Running"
    assert "found-42" in kubectl("logs", pod, "-c", "look")


def test_a_person_runs_a_pod_for_as_long_as_the_terminal_is_open(kubectl: Kubectl) -> None:
    options = ("run", "-it", "--rm", "--restart=Never", "shell", "--image=busybox")
    assert "size is 42" in typed(kubectl, *options, "--", "sh", text="echo size is $((40+2)); exit\n")
    assert kubectl.names("pods") == []


# As a webhook adds an annotation to what it is asked about; as the server of an API has a greeting for who asks.
EXTENSION = """
import base64, http.server, json, os, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        head = {"apiVersion": "greetings.example.com/v1"}
        greeting = {**head, "kind": "Greeting", "metadata": {"name": "hello"}, "to": self.headers["X-Remote-User"]}
        kind = {"name": "greetings", "singularName": "greeting", "namespaced": False, "kind": "Greeting"}
        found = {
            "/apis/greetings.example.com/v1": {
                "apiVersion": "v1", "kind": "APIResourceList", "groupVersion": head["apiVersion"],
                "resources": [{**kind, "verbs": ["get", "list"]}],
            },
            "/apis/greetings.example.com/v1/greetings/hello": greeting,
        }.get(self.path.partition("?")[0])
        self.answer(200 if found else 404, found or {"kind": "Status", "apiVersion": "v1", "code": 404})
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        change = [{"op": "add", "path": "/metadata/annotations", "value": {"seen-by": os.environ["HOSTNAME"]}}]
        patch = base64.b64encode(json.dumps(change).encode()).decode()
        answer = {"uid": review["request"]["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
        self.answer(200, {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer})
    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
keys = os.environ["RAYPLANE_MOUNT_KEYS"]
context.load_cert_chain(keys + "/tls.crt", keys + "/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def extend(kubectl: Kubectl) -> dict[str, Any]:
    """Two pods of the extension behind the Service `hook`, ready; where to find it, and whom to believe."""
    space = kubectl.namespace
    authority = Authority.create("webhook")
    shown = authority.issue("hook", hosts=[f"hook.{space}.svc"])
    text = {"tls.crt": shown.cert.decode(), "tls.key": shown.key.decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": text}
    program = {
        "name": "hook",
        "image": "python",
        "command": ["python", "-c", EXTENSION],
        "volumeMounts": [{"name": "keys", "mountPath": "/keys"}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
    }
    pod = {"containers": [program], "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}]}
    entrance = service("hook", port=443)
    entrance["spec"]["ports"] = [{"port": 443, "targetPort": 8443}]
    apply(kubectl, secret, deployment("hook", 2, pod), entrance)
    kubectl("rollout", "status", "deployment/hook", "--timeout=180s")
    bundle = base64.b64encode(authority.cert).decode()
    return {"service": {"namespace": space, "name": "hook"}, "caBundle": bundle}


def test_a_webhook_that_runs_in_a_pod_completes_objects(kubectl: Kubectl) -> None:
    space = kubectl.namespace
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    webhook = {
        "name": "hook.example.com",
        "clientConfig": extend(kubectl),
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": space},
        "webhooks": [webhook],
    }
    apply(kubectl, configuration)
    try:
        until("the webhook is in force", lambda: _annotated(kubectl))
        # Its pods are replaced one after the other, and it answers all the time.
        kubectl("rollout", "restart", "deployment/hook")
        kubectl("rollout", "status", "deployment/hook", "--timeout=180s")
        assert _annotated(kubectl)
        kubectl("scale", "deployment/hook", "--replicas=0")
        kubectl.until("endpointslices -l kubernetes.io/service-name=hook", "{.items[*].endpoints[*].addresses}", [""])
        refused = kubectl("create", "configmap", "alone", code=1)
        assert 'failed calling webhook "hook.example.com"' in refused and "no endpoints available" in refused
    finally:
        kubectl("delete", "mutatingwebhookconfiguration", space)
    kubectl("create", "configmap", "alone")


def _annotated(kubectl: Kubectl) -> bool:
    kubectl("delete", "configmap", "asked", "--ignore-not-found")
    kubectl("create", "configmap", "asked")
    return "hook-" in kubectl("get", "configmap", "asked", "-o", "jsonpath={.metadata.annotations.seen-by}")


def test_an_api_that_pods_serve_is_one_of_the_clusters(kubectl: Kubectl) -> None:
    spec = {"group": "greetings.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10}
    registration = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.greetings.example.com"},
        "spec": spec | extend(kubectl),
    }
    apply(kubectl, registration)
    try:
        kubectl("wait", "--for=condition=Available", "apiservice/v1.greetings.example.com", "--timeout=180s")
        told = kubectl("get", "greetings", "hello", "-o", "jsonpath={.to}")
        assert told == kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
        kubectl("scale", "deployment/hook", "--replicas=0")
        kubectl("wait", "--for=condition=Available=False", "apiservice/v1.greetings.example.com", "--timeout=180s")
        assert "ServiceUnavailable" in kubectl("get", "--raw", "/apis/greetings.example.com/v1/greetings", code=1)
    finally:
        kubectl("delete", "apiservice", "v1.greetings.example.com")


# As short as they can be: what the external snapshotter's own definitions say of names and scopes.
SNAPSHOT_KINDS: list[dict[str, Any]] = [
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.lower()}{plural}.snapshot.storage.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter"},
        },
        "spec": {
            "group": "snapshot.storage.k8s.io",
            "scope": scope,
            "names": {"kind": kind, "plural": f"{kind.lower()}{plural}", "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    "subresources": {"status": {}},
                }
            ],
        },
    }
    for kind, plural, scope in (
        ("VolumeSnapshot", "s", "Namespaced"),
        ("VolumeSnapshotClass", "es", "Cluster"),
        ("VolumeSnapshotContent", "s", "Cluster"),
    )
]
SNAPSHOT_API = {"apiVersion": "snapshot.storage.k8s.io/v1"}


def claim_from(own_name: str, storage: str, /, **source: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    spec["storageClassName"] = storage
    if source:
        spec["dataSource"] = source
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": own_name}, "spec": spec}


def shell_on(name: str, script: str) -> dict[str, Any]:
    """A pod with a volume of a claim of its name."""
    main: dict[str, Any] = {"name": "main", "image": "sh", "command": ["sh", "-c", script]}
    main["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
    spec = {"restartPolicy": "Never", "containers": [main], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_local_snapshots_and_clones(kubectl: Kubectl) -> None:
    copy_and_compare(kubectl, "standard", "rayplane.io/local")


def test_replicated_snapshots_and_clones(kubectl: Kubectl) -> None:
    copy_and_compare(kubectl, "replicated", "rayplane.io/replicated")


def copy_and_compare(kubectl: Kubectl, storage: str, driver: str) -> None:
    """Write, take a snapshot, write again: what is restored holds what was, a clone what is."""
    apply(kubectl, *SNAPSHOT_KINDS)
    for kind in SNAPSHOT_KINDS:
        kubectl("wait", "--for=condition=Established", f"crd/{kind['metadata']['name']}", "--timeout=180s")
    note = {"snapshot.storage.kubernetes.io/is-default-class": "true"}
    taken_by = {"driver": driver, "deletionPolicy": "Delete"}
    apply(
        kubectl,
        SNAPSHOT_API | taken_by | {"kind": "VolumeSnapshotClass", "metadata": {"name": storage, "annotations": note}},
        claim_from("data", storage),
        shell_on("data", "echo old > $RAYPLANE_ROOT/data/file; sleep 1000"),
    )
    kubectl("wait", "--for=condition=Ready", "pod/data", "--timeout=180s")
    until(
        "the file is there",
        lambda: kubectl("exec", "data", "--", "sh", "-c", "cat $RAYPLANE_ROOT/data/file || true") == "old\n",
    )
    source = {"source": {"persistentVolumeClaimName": "data"}}
    apply(kubectl, SNAPSHOT_API | {"kind": "VolumeSnapshot", "metadata": {"name": "s"}, "spec": source})
    kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "volumesnapshot/s", "--timeout=180s")
    kubectl("exec", "data", "--", "sh", "-c", "echo new > $RAYPLANE_ROOT/data/file")
    apply(
        kubectl,
        claim_from("restored", storage, apiGroup="snapshot.storage.k8s.io", kind="VolumeSnapshot", name="s"),
        shell_on("restored", "cat $RAYPLANE_ROOT/data/file"),
        claim_from("cloned", storage, kind="PersistentVolumeClaim", name="data"),
        shell_on("cloned", "cat $RAYPLANE_ROOT/data/file"),
    )
    for name, held in (("restored", "old\n"), ("cloned", "new\n")):
        kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=180s")
        assert kubectl("logs", name) == held
    kubectl("delete", "volumesnapshot", "s", "--timeout=180s")
    assert kubectl.items("volumesnapshotcontents.snapshot.storage.k8s.io") == []
    assert kubectl("exec", "data", "--", "sh", "-c", "cat $RAYPLANE_ROOT/data/file") == "new\n"
