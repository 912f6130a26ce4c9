"""The commands on objects against a running cluster whose pods are real processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.cli import changing, containers, reading
from rayplane.control_plane.cli.containers import Input, LogOptions
from rayplane.control_plane.cli.reading import GetOptions
from rayplane.control_plane.cli.top.rows import Key, Row
from rayplane.control_plane.cli.top.source import ClusterSource, Selection, yaml_of
from rayplane.control_plane.cli.top.standings import actor_rows
from rayplane.control_plane.cluster import manifests
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.tasks import cancel_and_wait
from tests.cli.screen import Screen, screen, write
from tests.cluster.harness import Cluster, cluster

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.processes]

WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, text: "one\\ntwo\\n"}
---
# The workload.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: busybox
          command: [sh, -c, "echo started $HOSTNAME; exec sleep 3600"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live() -> AsyncIterator[Cluster]:
    async with cluster(runtime="process", nodes=2, members=1, apiservers=1, schedulers=1, controllers=1) as c:
        yield c


@pytest.fixture
def at(live: Cluster) -> Screen:
    return screen(live)


async def _apply(at: Screen, path: Path, text: str) -> str:
    code = await changing.apply(at.session, manifests.load([write(path / "m.yaml", text)]))
    assert code == 0, at.errors()
    return at.take()


async def test_apply_says_what_it_did_and_get_shows_it(live: Cluster, at: Screen, tmp_path: Path) -> None:
    assert await _apply(at, tmp_path, WEB) == "configmap/settings created\ndeployment.apps/web created\n"
    await live.rolled_out("web", 2)
    assert await _apply(at, tmp_path, WEB) == "configmap/settings unchanged\ndeployment.apps/web unchanged\n"
    changed = WEB.replace("colour: blue", "colour: red")
    assert await _apply(at, tmp_path, changed) == "configmap/settings configured\ndeployment.apps/web unchanged\n"
    await live.rolled_out("web", 2)
    assert await reading.get(at.session, ["deploy", "web"], GetOptions()) == 0
    header, row = at.take().splitlines()
    assert header.split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row.split()[:4] == ["web", "2/2", "2", "2"]
    assert header.index("READY") == row.index("2/2")


async def test_apply_drops_a_field_that_its_manifest_no_longer_has(live: Cluster, at: Screen, tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shrinking}\ndata: {a: '1', b: '2'}\n"
    await _apply(at, tmp_path, text)
    await live.api.patch("configmaps", "shrinking", "default", {"data": {"c": "3"}}, field_manager="else")
    await _apply(at, tmp_path, text.replace(", b: '2'", ""))
    assert (await live.api.get("configmaps", "shrinking", "default"))["data"] == {"a": "1", "c": "3"}


async def test_apply_takes_a_field_over_from_whoever_set_it(live: Cluster, at: Screen, tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: disputed}\ndata: {a: '1'}\n"
    await _apply(at, tmp_path, text)
    await live.api.patch("configmaps", "disputed", "default", {"data": {"a": "2"}}, field_manager="else")
    assert await _apply(at, tmp_path, text) == "configmap/disputed configured\n"
    assert (await live.api.get("configmaps", "disputed", "default"))["data"] == {"a": "1"}


async def test_apply_goes_on_after_an_object_that_is_refused(live: Cluster, at: Screen, tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n---\n"
        "apiVersion: v1\nkind: Widget\nmetadata: {name: w}\n---\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatum: {}\n---\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fine}\n"
    )
    path = write(tmp_path / "m.yaml", text)
    assert await changing.apply(at.session, manifests.load([path])) == 1
    assert at.take() == "configmap/fine created\n"
    first, second, third = at.errors().splitlines()
    assert first.startswith('The ConfigMap "Bad_Name" is invalid') and first.endswith(f"({path}, document 1)")
    assert second.startswith(f'rayplane: {path}, document 2: no matches for kind "Widget" in version "v1"; check')
    assert ".datum: field not declared in schema" in third and "document 3" in third


async def test_apply_refuses_another_namespace_than_the_one_asked_for(live: Cluster, tmp_path: Path) -> None:
    at = screen(live, "kube-system")
    path = write(tmp_path / "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n")
    assert await changing.apply(at.session, manifests.load([path])) == 1
    assert "use -n default" in at.errors()


async def test_what_get_prints_can_be_applied_again(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    await reading.get(at.session, ["configmap/settings"], GetOptions(output="yaml"))
    text = at.take()
    assert "text: |\n" in text and "managedFields" not in text
    assert await _apply(at, tmp_path, text) in ("configmap/settings unchanged\n", "configmap/settings configured\n")


async def test_get_formats(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    await live.rolled_out("web", 2)
    await reading.get(at.session, ["deploy/web", "cm/settings"], GetOptions(output="name"))
    assert at.take() == "deployment.apps/web\nconfigmap/settings\n"
    await reading.get(at.session, ["pods"], GetOptions(output="json", selector="app=web"))
    listing = json.loads(at.take())
    assert listing["kind"] == "List" and {i["kind"] for i in listing["items"]} == {"Pod"}
    await reading.get(at.session, ["deploy", "web"], GetOptions(output="yaml"))
    assert yaml.safe_load(at.take())["spec"]["replicas"] == 2
    await reading.get(at.session, ["deploy", "web"], GetOptions(output="jsonpath={.status.readyReplicas}"))
    assert at.take() == "2\n"
    await reading.get(at.session, ["pods"], GetOptions(output="wide", selector="app=web"))
    assert "NOMINATED NODE" in at.take().splitlines()[0]
    await reading.get(at.session, ["pods,deploy"], GetOptions(all_namespaces=True, selector="app=web"))
    first, second = at.take().split("\n\n")
    assert first.splitlines()[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert all(line.split()[1].startswith("pod/web-") for line in first.splitlines()[1:])
    assert second.splitlines()[1].split()[:2] == ["default", "deployment.apps/web"]


async def test_get_of_nothing_and_of_what_is_not_there(live: Cluster, at: Screen) -> None:
    assert await reading.get(at.session, ["jobs"], GetOptions()) == 0
    assert (at.take(), at.errors()) == ("", "No resources found in default namespace.\n")
    assert await reading.get(at.session, ["pv"], GetOptions()) == 0
    assert at.errors() == "No resources found\n"
    assert await reading.get(at.session, ["pod", "nope", "neither"], GetOptions()) == 1
    assert at.errors().splitlines() == [
        'Error from server (NotFound): pods "nope" not found; `rayplane get pods -A` shows what there is',
        'Error from server (NotFound): pods "neither" not found; `rayplane get pods -A` shows what there is',
    ]
    with pytest.raises(ClusterError, match='the server doesn\'t have a resource type "widgets"'):
        await reading.get(at.session, ["widgets"], GetOptions())
    with pytest.raises(UsageError, match="-o 'xml'"):
        await reading.get(at.session, ["pods"], GetOptions(output="xml"))


async def test_watch_shows_each_change_under_the_first_header(live: Cluster, at: Screen) -> None:
    name = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched", "namespace": "default"}}
    await live.api.create("configmaps", name)
    options = GetOptions(watch=True)
    watch = asyncio.create_task(reading.get(at.session, ["cm", "watched"], options))
    try:
        await live.until(lambda: _lines(at, 2), "the list")
        await live.api.patch("configmaps", "watched", "default", {"data": {"a": "1"}})
        await live.until(lambda: _lines(at, 3), "the change")
        await live.api.delete("configmaps", "watched", "default")
        await live.until(lambda: _lines(at, 4), "the end")
    finally:
        await cancel_and_wait(watch)
    lines = at.take().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["NAME", "DATA"],
        ["watched", "0"],
        ["watched", "1"],
        ["watched", "1"],
    ]


async def _lines(at: Screen, count: int) -> bool:
    return at.stdout.getvalue().count(b"\n") == count


async def test_describe_shows_spec_conditions_and_events(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    pod = meta.name((await live.pods_ready(2, "app=web"))[0])
    events = "events"
    await live.until(lambda: _has_event(live, pod, "Started"), events)
    assert await reading.describe(at.session, ["pod", pod], selector="", all_namespaces=False) == 0
    text = at.take()
    assert text.startswith(f"Name:           {pod}\nNamespace:      default\n")
    assert "Controlled By:  ReplicaSet/web-" in text
    assert "Host IP:" in text and "Image:" in text
    assert [line.split()[:2] for line in text.splitlines() if line.split()[:1] == ["Ready"]] == [["Ready", "True"]]
    assert "Scheduled" in text.partition("Events:")[2]


async def _has_event(live: Cluster, name: str, reason: str) -> bool:
    events = await live.api.list("events", "default", field_selector=f"involvedObject.name={name},reason={reason}")
    return bool(events.items)


async def test_scale(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    assert await changing.scale(at.session, ["deployment/web"], 3) == 0
    assert at.take() == "deployment.apps/web scaled\n"
    await live.pods_ready(3, "app=web")
    assert await changing.scale(at.session, ["deploy", "web"], 2) == 0
    await live.pods_ready(2, "app=web")
    assert await changing.scale(at.session, ["deploy", "nope"], 2) == 1
    missing = 'Error from server (NotFound): deployments.apps "nope" not found'
    assert at.errors() == f"{missing}; `rayplane get deployments -A` shows what there is\n"
    with pytest.raises(ClusterError, match="configmaps have no replicas"):
        await changing.scale(at.session, ["cm", "settings"], 2)


async def test_logs(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    pods = await live.pods_ready(2, "app=web")
    name = meta.name(pods[0])
    await live.until(lambda: _logged(at, name, LogOptions()), "a line in the log")
    at.take()
    assert await containers.logs(at.session, "deployment/web", LogOptions(tail=1)) == 0
    assert at.take().startswith("started ")
    with pytest.raises(Exception, match="container nope is not valid for pod"):
        await containers.logs(at.session, name, LogOptions(container="nope"))
    with pytest.raises(NotFound, match='pods "nope" not found'):
        await containers.logs(at.session, "nope", LogOptions())


async def _logged(at: Screen, pod: str, options: LogOptions) -> bool:
    await containers.logs(at.session, pod, options)
    return b"started" in at.stdout.getvalue()


async def test_followed_logs_end_with_the_container(live: Cluster, at: Screen) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.1; done"
    await live.api.create("pods", _pod("counting", ["sh", "-c", script], restartPolicy="Never"))
    await live.until(lambda: _started(live, "counting"), "the container")
    assert await containers.logs(at.session, "counting", LogOptions(follow=True)) == 0
    assert at.take() == "line 1\nline 2\nline 3\n"


async def test_previous_logs_are_those_of_the_run_before(live: Cluster, at: Screen) -> None:
    script = "n=$(cat /proc/self/stat | cut -d' ' -f22); echo run $n; exit 1"
    await live.api.create("pods", _pod("crashing", ["sh", "-c", script]))
    await live.until(lambda: _restarted(live, "crashing"), "a restart")
    await containers.logs(at.session, "crashing", LogOptions(previous=True))
    assert at.take().startswith("run ")


async def test_exec_passes_output_input_and_exit_code(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    name = meta.name((await live.pods_ready(2, "app=web"))[0])
    code = await containers.execute(at.session, name, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (code, at.take(), at.errors()) == (7, "out\n", "err\n")
    assert await containers.execute(at.session, name, ["cat"], typed=Input(_typed(b"hello ", b"there"))) == 0
    assert at.take() == "hello there"
    assert await containers.execute(at.session, f"pod/{name}", ["true"], container="main") == 0


async def _typed(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_delete_waits_until_the_object_is_gone(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await live.api.create("pods", _pod("doomed", ["sleep", "3600"]))
    await live.until(lambda: _started(live, "doomed"), "the container")
    places = await changing.places_named(at.session, ["pod", "doomed"], selector="", everything=False)
    assert await changing.delete(at.session, places, changing.DeleteOptions(grace_s=1)) == 0
    assert at.take() == 'pod "doomed" deleted from default namespace\n'
    with pytest.raises(NotFound):
        await live.api.get("pods", "doomed", "default")
    assert await changing.delete(at.session, places, changing.DeleteOptions()) == 1
    assert (
        at.errors()
        == 'Error from server (NotFound): pods "doomed" not found; `rayplane get pods -A` shows what there is\n'
    )
    assert await changing.delete(at.session, places, changing.DeleteOptions(ignore_not_found=True)) == 0


async def test_delete_gives_up_on_what_a_finalizer_holds(live: Cluster, at: Screen) -> None:
    held = {"name": "held", "namespace": "default", "finalizers": ["example.com/hold"]}
    await live.api.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": held})
    places = await changing.places_named(at.session, ["cm/held"], selector="", everything=False)
    with pytest.raises(ClusterError, match=r"configmap/held is not gone after 0\.3 s; look at its finalizers"):
        await changing.delete(at.session, places, changing.DeleteOptions(timeout_s=0.3))
    await live.api.patch("configmaps", "held", "default", {"metadata": {"finalizers": None}})
    await live.gone("configmaps", "held", "default")


async def test_delete_of_files_and_by_selector(live: Cluster, at: Screen, tmp_path: Path) -> None:
    await _apply(at, tmp_path, WEB)
    await live.pods_ready(2, "app=web")
    found = await changing.places_of(at.session, manifests.load([str(tmp_path)]))
    assert await changing.delete(at.session, found, changing.DeleteOptions()) == 0
    assert at.take().splitlines() == [
        'configmap "settings" deleted from default namespace',
        'deployment.apps "web" deleted from default namespace',
    ]
    await live.pods_ready(0, "app=web")
    with pytest.raises(UsageError, match="say which"):
        await changing.places_named(at.session, ["pods"], selector="", everything=False)
    assert await changing.places_named(at.session, ["pods"], selector="app=web", everything=False) == []


async def test_a_pod_that_is_on_no_node_has_no_logs(live: Cluster, at: Screen) -> None:
    pod = _pod("homeless", ["true"], nodeSelector={"nowhere": "yes"})
    await live.api.create("pods", pod)
    with pytest.raises(ClusterError, match="pod homeless is on no node yet"):
        await containers.logs(at.session, "homeless", LogOptions())
    await live.api.delete("pods", "homeless", "default")


def _pod(name: str, command: list[str], **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "busybox", "command": command}], **spec},
    }


async def _started(live: Cluster, name: str) -> bool:
    statuses = meta.status(await live.api.get("pods", name, "default")).get("containerStatuses") or [{}]
    return bool(statuses[0].get("started") or (statuses[0].get("state") or {}).get("terminated"))


async def _restarted(live: Cluster, name: str) -> bool:
    statuses = meta.status(await live.api.get("pods", name, "default")).get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount") or 0) > 0


async def test_the_terminal_view_shows_the_cluster_and_strikes_it(live: Cluster, at: Screen, tmp_path: Path) -> None:
    source = ClusterSource(live.access, at.session)
    await _apply(at, tmp_path, WEB.replace("name: web", "name: seen").replace("app: web", "app: seen"))
    await live.pods_ready(2, "app=seen")
    pods = await source.kind("po")
    rows: dict[Key, Row] = {}
    async with aclosing(source.rows(Selection(pods, labels="app=seen"))) as changes, asyncio.timeout(120):
        async for change in changes:
            assert [column.name for column in change.columns[:3]] == ["Namespace", "Name", "Ready"]
            rows |= {row.key: row for row in change.put}
            for key in change.drop:
                del rows[key]
            if change.anew:
                first = min(rows)
                assert [row.cells[2:4] for row in rows.values()] == [("1/1", "Running")] * 2
                async with aclosing(source.logs(first, previous=False)) as chunks:
                    assert b"started seen-" in await anext(chunks)
                assert f" {first[1]}\nNamespace: " in await source.describe(pods, first)
                assert "kind: Pod" in yaml_of(await source.get(pods, first))
                await source.delete(pods, first, at_once=True)
            elif first not in rows and [row.cells[2] for row in rows.values()] == ["1/1"] * 2:
                break
    async with aclosing(source.standings()) as glances:
        roles = [row.cells[1] for row in actor_rows(await anext(glances))]
    assert roles[0] == "member" and "scheduler" in roles
    assert "scheduler-0" in await source.strike("kill: {target: scheduler-0}")
    assert (
        await changing.delete(
            at.session,
            await changing.places_of(at.session, manifests.load([str(tmp_path / "m.yaml")])),
            changing.DeleteOptions(),
        )
        == 0
    )
