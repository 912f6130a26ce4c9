"""Tables, YAML and descriptions."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery import yaml_reader
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.cli.describe import described
from rayplane.control_plane.cli.kinds import Kinds, resource_of
from rayplane.control_plane.cli.printing import TableWriter, formatted, listed, name_of
from rayplane.control_plane.cli.session import Terminal
from rayplane.control_plane.cli.standing import ports_table
from rayplane.control_plane.client import ObjectList
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.listening import Listener

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PODS = builtin_registry().by_name("pods")
DEPLOYMENTS = builtin_registry().by_name("deployments.apps")


def _pod(name: str, **labels: str) -> dict[str, Any]:
    created = (NOW - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": created, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "app:1"}], "nodeName": "node-0"},
        "status": {
            "phase": "Running",
            "podIP": "127.16.0.2",
            "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "state": {"running": {}}}],
        },
    }


def _lines(writer: TableWriter, objs: list[dict[str, Any]], prefix: str = "") -> list[str]:
    table = to_table(rules_for(PODS).printer, objs, now=NOW)
    return [line.text for line in writer.lines(table, objs, prefix=prefix)]


def test_columns_are_upper_case_and_three_blanks_apart() -> None:
    assert _lines(TableWriter(), [_pod("a"), _pod("a-long-name")]) == [
        "NAME          READY   STATUS    RESTARTS   AGE",
        "a             1/1     Running   0          5m",
        "a-long-name   1/1     Running   0          5m",
    ]


def test_what_objects_hold_commands_no_terminal() -> None:
    out, err = io.BytesIO(), io.BytesIO()
    terminal = Terminal(out, err)
    terminal.line("a\x1b]0;title\x07\r\x9b2Jü\tb\nc")
    terminal.error("\x1b[2J")
    assert out.getvalue().decode() == "a^[]0;title^G^M\\u009b2Jü\tb\nc\n"
    assert err.getvalue() == b"^[[2J\n"


def test_wide_namespaces_labels_and_no_header() -> None:
    header, row = _lines(TableWriter(wide=True, namespace=True, labels=True), [_pod("a", app="web", tier="x")])
    assert header.split()[:2] == ["NAMESPACE", "NAME"] and "READINESS GATES" in header
    assert header.endswith("LABELS") and row.endswith("app=web,tier=x")
    assert row.split()[:2] == ["ns", "a"]
    assert _lines(TableWriter(header=False), [_pod("a")], "pod/") == ["pod/a   1/1   Running   0     5m"]


def test_rows_of_a_watch_keep_the_columns_of_the_first_rows() -> None:
    writer = TableWriter()
    first = _lines(writer, [_pod("a-long-name")])
    (later,) = _lines(writer, [_pod("b")])
    assert later.index("1/1") == first[0].index("READY")


def test_names_carry_their_group() -> None:
    assert (name_of(PODS, "a"), name_of(DEPLOYMENTS, "a")) == ("pod/a", "deployment.apps/a")
    assert (resource_of(PODS), resource_of(DEPLOYMENTS)) == ("pods.v1", "deployments.v1.apps")


def test_yaml_has_blocks_and_no_field_managers() -> None:
    obj = {"kind": "X", "metadata": {"name": "a", "managedFields": [1]}, "data": {"t": "one\ntwo\n"}}
    assert formatted(obj, "yaml") == "data:\n  t: |\n    one\n    two\nkind: X\nmetadata:\n  name: a"
    assert "managedFields" not in formatted(listed([obj]), "json")


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "yes", "null", "2026-01-02", "0x1f", "1_000", "~", "on", "", "- a", ": x"]
)
def test_yaml_quotes_what_would_be_read_as_something_else(text: str) -> None:
    assert yaml_reader.parse(formatted({"a": text}, "yaml").encode()) == {"a": text}


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.text()))
def test_yaml_can_be_read_back(data: dict[str, str]) -> None:
    # Printed with an end of line, which belongs to a text that is a block at the end.
    assert yaml.safe_load(formatted({"data": data}, "yaml") + "\n") == {"data": data}


def test_jsonpath() -> None:
    pod = _pod("a")
    assert formatted(pod, "jsonpath={.status.phase}") == "Running"
    assert formatted(listed([pod, _pod("b")]), "jsonpath={.items[*].metadata.name}") == "a b"
    with pytest.raises(UsageError, match="JSONPath"):
        formatted(pod, "jsonpath={..name}")


def test_descriptions_hide_secrets_and_show_events() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "ns", "labels": {"b": "2", "a": "1"}},
        "data": {"password": "aHVudGVyMg=="},
        "type": "Opaque",
    }
    event = {
        "type": "Warning",
        "reason": "Failed",
        "count": 4,
        "firstTimestamp": "2026-01-02T03:03:05Z",
        "lastTimestamp": "2026-01-02T03:04:00Z",
        "source": {"component": "kubelet"},
        "message": "no\nluck",
    }
    lines = described(secret, [event], NOW)
    text = "\n".join(lines)
    assert "aHVudGVyMg==" not in text and "password: 7 bytes" in text
    assert lines[2:4] == ["Labels:       a=1", "              b=2"]
    assert lines[-1] == "  Warning   Failed   5s (x4 over 60s)   kubelet   no luck"
    assert described(secret, [], NOW)[-1] == "Events:  <none>"


def test_descriptions_keep_the_users_own_keys_and_title_the_others() -> None:
    pod = _pod("a") | {"spec": {"nodeSelector": {"diskType": "ssd"}, "dnsPolicy": "None", "hostIPC": True}}
    text = "\n".join(described(pod, [], NOW))
    assert "diskType=ssd" in text and "DNS Policy:" in text and "Host IPC:" in text
    assert text.index("Spec:") < text.index("Status:")


class _Api:
    """An API that holds one custom resource definition; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def list(self, resource: str) -> ObjectList:
        self.asked += 1
        names = {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]}
        version = {
            "name": "v1",
            "served": True,
            "storage": True,
            "additionalPrinterColumns": [{"name": "Size", "jsonPath": ".spec.size"}],
        }
        spec = {
            "group": "example.com",
            "names": names,
            "scope": "Namespaced",
            "versions": [version, {"name": "v0", "served": False}],
        }
        return ObjectList([{"metadata": {"name": "widgets.example.com"}, "spec": spec}], "1")


async def test_kinds_are_understood_as_people_write_them() -> None:
    api = _Api()
    kinds = Kinds(api)  # type: ignore[arg-type]
    for text in ("po", "pod", "pods", "Pod"):
        (chosen,) = await kinds.choose([text, "a", "b", "a"])
        assert (chosen.info.name, chosen.names) == ("pods", ("a", "b"))
    found = await kinds.choose(["deploy/web", "svc/web", "deployment.apps/db"])
    assert [(c.info.name, c.names) for c in found] == [("deployments.apps", ("web", "db")), ("services", ("web",))]
    assert [c.info.name for c in await kinds.choose(["po,svc"])] == ["pods", "services"]
    assert "statefulsets.apps" in [c.info.name for c in await kinds.choose(["all"])]
    assert api.asked == 0
    for wrong in (["pod/a", "b"], ["pod/"], ["po,svc", "a"], []):
        with pytest.raises(UsageError):
            await kinds.choose(wrong)


async def test_custom_resources_are_learnt_once() -> None:
    api = _Api()
    kinds = Kinds(api)  # type: ignore[arg-type]
    (chosen,) = await kinds.choose(["wd"])
    assert resource_of(chosen.info) == "widgets.v1.example.com"
    assert kinds.columns(chosen.info) == [{"name": "Size", "jsonPath": ".spec.size"}]
    assert (await kinds.of({"apiVersion": "example.com/v1", "kind": "Widget"})) == chosen.info
    with pytest.raises(ClusterError, match=r'no matches for kind "Widget" in version "example\.com/v0"'):
        await kinds.of({"apiVersion": "example.com/v0", "kind": "Widget"})
    assert api.asked == 1


def test_ports_are_shown_whole_on_a_narrow_terminal() -> None:
    who = "user system:kube-controller-manager-of-a-long-name"
    console = Console(file=io.StringIO(), width=80)
    row = Listener(owner="node-host-0", address="127.0.0.1:20000", speaks="kubelet over gRPC; mutual TLS", callers=who)
    console.print(ports_table([row]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown and shown.rstrip().endswith("name")
