"""The page in Chromium, on a cluster of processes: what people see of it, and do with it."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import running
from tests.e2e.harness import Cluster, Kubectl
from tests.recordings.made import web

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser's driver is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.turn(1, of=2),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

WAIT_MS = 120_000
# Where the pictures of the last run go, for whoever wants to see them.
PICTURES = os.environ.get("RAYPLANE_PICTURES", "")
SHOUTER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shouter}
spec:
  replicas: 2
  selector: {matchLabels: {app: shouter}}
  template:
    metadata: {labels: {app: shouter}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: none
        command: [sh, -c, "echo ready to shout; exec sleep 3600"]
        resources: {requests: {cpu: 500m}}
"""
TOO_LARGE = """
apiVersion: v1
kind: Pod
metadata: {name: too-large}
spec: {containers: [{name: main, image: none, resources: {requests: {cpu: "64"}}}]}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster("browsed", tmp_path_factory.mktemp("home"))
    how = ("--host", "process", "--runtime", "process", "--isolation", "none", "--nodes", "2", "--ui", "on")
    with running(made, *how):
        yield made


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    made = cluster.kubectl()
    made("apply", "-f", "-", stdin=f"{SHOUTER}---{TOO_LARGE}")
    made("rollout", "status", "deployment/shouter")
    return made


@pytest.fixture(scope="module")
def address(cluster: Cluster) -> Iterator[str]:
    serving = cluster.start("dashboard")
    assert serving.stdout is not None
    with serving:
        try:
            yield serving.stdout.readline().split()[-1]
        finally:
            serving.terminate()
            assert serving.wait(30) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, address: str, kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The dashboard, signed in."""
    with signed_in(browser, address) as made:
        yield made
        if PICTURES:
            made.screenshot(path=str(Path(PICTURES, f"{request.node.name}.png")))


@contextlib.contextmanager
def signed_in(browser: Any, address: str) -> Iterator[Any]:
    """A page. What goes wrong in it fails the test."""
    made = browser.new_page(viewport={"width": 1300, "height": 850})
    made.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    made.goto(address)
    yield made
    made.close()
    assert wrong == []


def go(page: Any, to: str) -> None:
    page.evaluate("(to) => { location.hash = to }", to)


def row(page: Any, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def test_the_key_does_not_stay_in_the_address(page: Any) -> None:
    page.get_by_role("heading", name="Control plane of browsed").wait_for()
    assert "key" not in page.url


def test_a_killed_leader_is_seen_to_be_followed_by_another(page: Any) -> None:
    leading = page.get_by_role("row").filter(has_text=re.compile(r"\bleader\b"))
    leading.wait_for()
    name = leading.get_by_role("rowheader").inner_text()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=f"Kill {name}").click()
    page.locator(".story").get_by_text(f"kill: {name}").wait_for()
    page.locator(".story").get_by_text(re.compile(r"member-\d leads in term")).first.wait_for()


def test_servers_tell_their_load_leaders_their_leases_and_machines_their_actors(page: Any) -> None:
    row(page, "apiserver-0").get_by_text(re.compile(r"^\d+\.\d$")).wait_for()
    page.get_by_role("img", name=re.compile("apiserver-0: at most .* requests a second")).wait_for()
    page.get_by_text("by verb").first.click()
    page.get_by_role("row").filter(has_text=re.compile(r"^\s*LIST\s*[1-9]")).first.wait_for()
    page.get_by_role("row").filter(has_text=re.compile(r"leads \(kube-controller-manager")).first.wait_for()
    held = re.compile(r"127\.0\.0\.1\s*used\s*[1-9][\s\S]*GiB[\s\S]*member-0[\s\S]*node-host-0")
    page.get_by_role("row").filter(has_text=held).first.wait_for()
    page.get_by_role("img", name=re.compile(r"^etcd: member-\d now")).wait_for()
    page.get_by_role("img", name=re.compile(r"^kube-scheduler: scheduler-\d now")).wait_for()


def test_a_fault_that_lasts_is_listed_and_ended(page: Any) -> None:
    page.get_by_label("Begin").fill("slow_network: {delay: 2ms, for: 300s}")
    page.get_by_role("button", name="Begin").click()
    page.locator(".story").get_by_text("began: slow_network").wait_for()
    page.get_by_role("button", name="End").click()
    page.get_by_text("None lasts.").wait_for()
    page.locator(".story").get_by_text("over: slow_network").wait_for()


def test_a_fault_that_makes_no_sense_is_told_and_nothing_is_done(page: Any) -> None:
    page.get_by_label("Begin").fill("stop: {target: nobody-at-all}")
    page.get_by_role("button", name="Begin").click()
    page.locator("#said.bad").get_by_text(re.compile("for|nobody")).wait_for()


def test_nodes_show_what_fills_them_and_what_waits(page: Any) -> None:
    go(page, "#/packing")
    page.get_by_text("default/shouter 2").wait_for()
    page.get_by_role("cell", name="1 of 4", exact=True).wait_for()
    waiting = page.get_by_role("row").filter(has_text="default/too-large")
    waiting.get_by_text("2 Insufficient cpu").wait_for()


def test_nodes_are_shown_though_answers_broke_off_before(page: Any) -> None:
    """What is drawn with an error, before it is arranged anew: nothing yet, and then a node that is gone."""
    node = {"room": [4, 1000, 1 << 30], "held": {}, "ready": True, "registered": True, "cordoned": False}
    sums = {"used": 0, "lowerBound": 0, "pendingCount": 0, "pending": []}
    answers = [{"whole": True, "nodes": {"gone": node}, **sums}, {"nodes": {"gone": None}, **sums}]

    def broken(route: Any) -> None:
        lines = (answers.pop(0), {"error": "nobody leads"})
        route.fulfill(body="".join(json.dumps(line) + "\n" for line in lines), content_type="application/json")

    page.route("**/rayplane/v1/packing", broken, times=len(answers))
    go(page, "#/packing")
    page.get_by_text("default/shouter 2").wait_for()
    assert not answers


def test_a_table_follows_what_happens(page: Any, kubectl: Kubectl) -> None:
    go(page, "#/objects?kind=configmaps&namespace=default")
    row(page, "kube-root-ca.crt").wait_for()
    kubectl("create", "configmap", "fresh", "--from-literal=a=b")
    row(page, "fresh").wait_for()
    kubectl("delete", "configmap", "fresh")
    row(page, "fresh").wait_for(state="detached")


def test_the_past_is_shown_played_and_compared(page: Any, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "past", "--from-literal=colour=red")
    then = kubectl("get", "configmap", "past", "-o", "jsonpath={.metadata.resourceVersion}")
    kubectl("delete", "configmap", "past")
    go(page, f"#/history?kind=configmaps&namespace=default&at={then}")
    row(page, "past").wait_for()
    page.get_by_role("button", name="Mark this instant").click()
    page.get_by_role("slider").press("End")
    row(page, "past").wait_for(state="detached")
    page.get_by_role("button", name="What changed since").click()
    page.get_by_role("row").filter(has_text="ConfigMap default/past").get_by_text("deleted").wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()


def test_a_filter_leaves_what_has_the_words(page: Any) -> None:
    go(page, "#/objects?kind=pods&namespace=default")
    row(page, "too-large").wait_for()
    page.get_by_label("Filter").fill("default/shouter running")
    row(page, "too-large").wait_for(state="detached")
    assert page.get_by_role("rowheader", name=re.compile("shouter")).count() == 2


def test_a_deployment_is_scaled_paused_and_restarted(page: Any, kubectl: Kubectl) -> None:
    go(page, "#/object?kind=deployments.apps&namespace=default&name=shouter")
    page.get_by_label("Replicas").fill("3")
    page.get_by_role("button", name="Scale").click()
    kubectl.until("deployment/shouter", "{.spec.replicas}", ["3"])
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Restart").click()
    kubectl.until("deployment/shouter", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}", ["2"])
    page.get_by_role("button", name="Undo").click()
    kubectl.until("deployment/shouter", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}", ["3"])
    assert "restartedAt" not in kubectl("get", "deployment", "shouter", "-o", "jsonpath={.spec.template}")


def test_an_edit_is_checked_by_the_server_before_it_is_stored(page: Any, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "edited", "--from-literal=word=before")
    go(page, "#/object?kind=configmaps&namespace=default&name=edited&tab=yaml")
    text = page.get_by_role("textbox")
    text.wait_for()
    written = text.input_value()
    assert "managedFields" not in written
    text.fill(written.replace("word: before", "word: after"))
    page.get_by_role("button", name="Check").click()
    page.get_by_label("What would change").get_by_text("+  word: after").wait_for()
    assert kubectl("get", "configmap", "edited", "-o", "jsonpath={.data.word}") == "before"
    page.get_by_role("button", name="Apply").click()
    kubectl.until("configmap/edited", "{.data.word}", ["after"])
    text.fill("kind: ConfigMap\nnonsense: true\n")
    page.get_by_role("button", name="Check").click()
    page.locator("#said.bad").wait_for()


def test_events_placement_and_story_say_why(page: Any, kubectl: Kubectl) -> None:
    go(page, "#/object?kind=pods&namespace=default&name=too-large&tab=events")
    # More than one where another scheduler leads since.
    page.get_by_role("cell", name="FailedScheduling").first.wait_for()
    page.get_by_role("link", name="Placement").click()
    page.get_by_role("cell", name="Insufficient cpu").first.wait_for()
    # A new one: whoever leads the controllers now tells of what it did itself.
    kubectl("create", "deployment", "told", "--image=told:1")
    go(page, "#/object?kind=deployments.apps&namespace=default&name=told&tab=why")
    page.get_by_role("rowheader", name="deployment").first.wait_for()
    page.get_by_text(re.compile(r"created replicasets\.apps default/told-")).first.wait_for()
    kubectl("delete", "deployment", "told")


def test_the_pods_below_a_workload_and_behind_a_service_are_seen(page: Any, kubectl: Kubectl) -> None:
    kubectl("expose", "deployment", "shouter", "--port=80")
    go(page, "#/object?kind=services&namespace=default&name=shouter")
    page.get_by_text("kubectl port-forward -n default services/shouter :80").wait_for()
    page.get_by_role("button", name="Open port 80").click()
    there = page.get_by_role("link", name=re.compile(r"[0-9a-f]{32}\.localhost:\d+"))
    with page.expect_popup() as opened:
        there.click()
    opened.value.get_by_text("error trying to reach service").wait_for()  # nobody listens in these pods
    assert opened.value.evaluate("[window.opener, sessionStorage.length, document.referrer]") == [None, 0, ""]
    opened.value.close()
    page.get_by_role("button", name="End port 80").click()
    there.wait_for(state="detached")
    page.get_by_role("link", name="Topology").click()
    pod = page.get_by_role("listitem").filter(has_text=re.compile(r"^Pod shouter-\S+\s+Ready\s+on node-"))
    pod.first.wait_for()
    go(page, "#/object?kind=deployments.apps&namespace=default&name=shouter&tab=of-some-other-version")
    page.get_by_role("heading", name="Conditions").wait_for()
    assert page.get_by_role("link", name="Workloads").get_attribute("aria-current") == "true"
    go(page, "#/object?kind=deployments.apps&namespace=default&name=shouter&tab=topology")
    page.get_by_role("listitem").filter(has_text="ReplicaSet shouter-").filter(has=pod).first.wait_for()
    own_itself(kubectl, *kubectl.names("replicasets", "-l", "app=shouter"))
    third = page.locator(".topology .topology li").nth(2)
    kubectl("scale", "deployment/shouter", "--replicas=3")
    third.wait_for()
    kubectl("scale", "deployment/shouter", "--replicas=2")
    third.wait_for(state="detached")


def own_itself(kubectl: Kubectl, *names: str) -> None:
    for name in names:
        uid = kubectl("get", name, "-o", "jsonpath={.metadata.uid}")
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name.partition("/")[2], "uid": uid}
        add = {"op": "add", "path": "/metadata/ownerReferences/-", "value": owner}
        kubectl("patch", name, "--type=json", "-p", json.dumps([add]))


def test_logs_are_followed_and_a_terminal_answers(page: Any, kubectl: Kubectl) -> None:
    (pod, *_) = kubectl.names("pods", "-l", "app=shouter", "--field-selector=status.phase=Running")
    name = pod.removeprefix("pod/")
    go(page, f"#/object?kind=pods&namespace=default&name={name}&tab=logs")
    page.get_by_text("ready to shout").wait_for()
    page.get_by_role("link", name="Terminal").click()
    page.get_by_role("button", name="Run").click()
    page.locator(".xterm-rows").get_by_text(re.compile("[#$]")).first.wait_for()
    page.keyboard.type("echo $((6 * 7))-times\n")
    page.get_by_text("42-times").first.wait_for()


def test_a_token_opens_what_rbac_gives_it_and_no_more(browser: Any, address: str, kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "reader")
    kubectl("create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader")
    token = kubectl("create", "token", "reader").strip()
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(address.partition("#")[0])
    page.get_by_label("Token").fill("nonsense")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^Pod")).wait_for()
    assert page.get_by_role("navigation", name="Views").get_by_role("link").all_inner_texts() == ["Workloads"]
    go(page, "#/packing")
    page.get_by_role("alert").get_by_text('cannot get path "/rayplane/v1/packing"').wait_for()
    go(page, "#/objects?kind=pods&namespace=default")
    row(page, "too-large").wait_for()
    go(page, "#/objects?kind=secrets&namespace=default")
    page.get_by_role("alert").get_by_text("forbidden").wait_for()
    page.close()


def test_an_api_server_has_the_page_too_with_all_that_rbac_gives(
    browser: Any, cluster: Cluster, kubectl: Kubectl
) -> None:
    kubectl("create", "serviceaccount", "writer")
    kubectl("create", "rolebinding", "writer", "--clusterrole=admin", "--serviceaccount=default:writer")
    kubectl("create", "configmap", "looked-at", "--from-literal=word=before")
    # The browser was not told of the cluster's authority.
    page = browser.new_page(ignore_https_errors=True)
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{kubectl('config', 'view', '--minify', '-o', 'jsonpath={.clusters[0].cluster.server}')}/ui/")
    page.get_by_label("Token").fill(kubectl("create", "token", "writer").strip())
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Workloads").wait_for()
    assert page.get_by_role("link", name="Control plane").count() == 0, "nobody has given it that right yet"
    go(page, "#/object?kind=configmaps&namespace=default&name=looked-at&tab=yaml")
    text = page.get_by_role("textbox")
    text.fill(text.input_value().replace("word: before", "word: after"))
    page.get_by_role("button", name="Check").click()
    page.get_by_label("What would change").get_by_text("+  word: after").wait_for()
    (pod, *_) = kubectl.names("pods", "-l", "app=shouter", "--field-selector=status.phase=Running")
    go(page, f"#/object?kind=pods&namespace=default&name={pod.removeprefix('pod/')}&tab=terminal")
    page.get_by_role("button", name="Run").click()
    page.locator(".xterm-rows").get_by_text(re.compile("[#$]")).first.wait_for()
    page.keyboard.type("echo $((6 * 7))-times\n")
    page.get_by_text("42-times").first.wait_for()
    see_what_was_granted(page, kubectl, "default:writer")
    page.close()


def see_what_was_granted(page: Any, kubectl: Kubectl, account: str) -> None:
    """The views beside objects, and faults only with the right to those."""
    strikes = {"apiGroups": ["chaos.rayplane.io"], "resources": ["faults"], "verbs": ["list", "create", "delete"]}
    for name, rule in (("views", {"nonResourceURLs": ["/rayplane/v1/*"], "verbs": ["get"]}), ("faults", strikes)):
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}}
        kubectl("create", "-f", "-", stdin=json.dumps({**role, "rules": [rule]}))
        kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--serviceaccount={account}")
        page.reload()
        go(page, "#/control-plane")
        page.get_by_role("row").filter(has_text=re.compile(r"leads \(kube-scheduler")).first.wait_for()
        may = name == "faults"
        assert (page.get_by_label("Begin").count() > 0) == may
    page.get_by_role("button", name="Kill scheduler-1").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cut off scheduler-1").click()
    row(page, "scheduler-1").get_by_role("button", name="Undo").click()
    page.locator(".story").get_by_text("over: partition").wait_for()
    page.get_by_role("link", name="Packing").click()
    page.get_by_text(re.compile("default/shouter [0-9]")).wait_for()
    page.get_by_role("link", name="Time travel").click()
    page.get_by_role("slider").wait_for()
    page.get_by_role("navigation", name="Of this instant").get_by_role("link", name="Control plane").click()
    page.get_by_text("As the supervisor saw it at").wait_for()


def test_a_recording_is_played_as_it_was(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(web())
    serving = Cluster("played", tmp_path).start("dashboard", "--open", str(tmp_path / "file"), named=False)
    assert serving.stdout is not None
    with serving:
        try:
            with signed_in(browser, serving.stdout.readline().split()[-1]) as page:
                played(page)
        finally:
            serving.terminate()


def played(page: Any) -> None:
    """The slider leads over tables, single objects, packing and the control plane; what the file says is no markup."""
    page.get_by_role("heading", name="web, seed 7").wait_for()
    page.get_by_text("it took too long").wait_for()
    page.get_by_role("row").filter(has_text="one leader: <img").wait_for()
    page.get_by_role("button", name="Mark this instant").press("Enter")
    page.get_by_role("button", name="Go to 3.000 s").press("Enter")
    row(page, "web").get_by_text("Running").wait_for()
    struck = page.get_by_role("row").filter(has_text="stop: leader → member-0")
    assert struck.get_attribute("aria-current") == "true"
    page.get_by_role("button", name="What changed since 0.000 s").click()
    page.get_by_role("row").filter(has_text="Pod default/web").get_by_text("created").wait_for()
    page.get_by_role("link", name="web", exact=True).click()
    page.get_by_role("link", name="node-0").wait_for()
    page.get_by_role("link", name="YAML").click()
    page.locator("pre").get_by_text('"image": "<img').wait_for()
    page.get_by_role("link", name="Packing").click()
    page.get_by_role("cell", name="1 of 4", exact=True).wait_for()
    page.get_by_role("link", name="Control plane").click()
    page.get_by_role("row").filter(has_text="member-0").get_by_text("leader", exact=True).wait_for()
    page.get_by_role("slider").press("End")
    page.get_by_text("does not answer").wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").click()
    assert page.locator("img").count() == 0


def test_the_views_are_reached_by_keyboard_alone(page: Any) -> None:
    page.get_by_role("heading", name="Control plane of browsed").wait_for()
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^Pod")).wait_for()


def test_the_page_is_readable_in_the_dark(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    shades = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert shades[0] < 150 < 550 < shades[1]
