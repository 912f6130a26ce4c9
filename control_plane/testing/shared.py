"""A cluster as one test sees it: with a namespace of its own, clients, and what is told when the test fails."""

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.blocking import Client
from rayplane.control_plane.testing import cluster as clusters
from rayplane.control_plane.testing import failing
from rayplane.control_plane.testing.chaos import Chaos
from rayplane.control_plane.testing.cluster import Cluster
from rayplane.control_plane.testing.until import TIMEOUT_S, NotInTime, until

_NAME_MAX = 40
#: What is being deleted when its tests are over, and takes a moment.
GOING = ("namespaces", "persistentvolumes")
#: What has no namespace, and is looked for at the end: whoever made it should have deleted it.
CLUSTER_WIDE = (
    *GOING,
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "storageclasses.storage.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "apiservices.apiregistration.k8s.io",
)


class LeftBehind(AssertionError):
    """Tests left something in a cluster that they shared."""


class ClusterInTest:
    """A cluster in a test. What is made in `namespace` goes with the test."""

    def __init__(self, cluster: Cluster, namespace: str, kubeconfig: Path, api: Client) -> None:
        self.cluster = cluster
        """The same without a namespace: `status()`, `endpoints`, `snapshot()`, ..."""
        self.namespace = namespace
        self.kubeconfig = kubeconfig
        """An administrator's, whose context is in the namespace."""
        self.api = api
        """A client of objects, watches, logs and exec."""
        self._began = api.get("namespaces", namespace)["metadata"]["resourceVersion"]

    @property
    def chaos(self) -> Chaos:
        return self.cluster.chaos

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with KUBECONFIG for this test."""
        return os.environ | {"KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace; its standard output."""
        return self.cluster.kubectl(f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a rayplane command against this cluster; its standard output."""
        return self.cluster.run(*arguments, stdin=stdin)

    def advance(self, span: str | float) -> None:
        """Let time pass, for all that share the cluster: "2h", or seconds. See Cluster."""
        self.cluster.advance(span)

    def wait_for(
        self, resource: str, name: str, condition: str | Callable[[Object], object], *, timeout: float = TIMEOUT_S
    ) -> Object:
        """An object of the namespace once a condition of its status is True, or a function of the object is.

        `wait_for("deployments.apps", "web", "Available")`, or `wait_for("pods", "a", lambda pod: ...)`. NotInTime tells
        how it was last.
        """
        last: Object = {}
        missing = ""
        met = condition if callable(condition) else lambda obj: meta.condition_is(obj, condition)

        def look() -> Object | None:
            nonlocal last, missing
            try:
                last, missing = self.api.get(resource, name, self.namespace), ""
            except NotFound as e:  # a definition of the resource may come, too
                missing = (
                    str(e) if e.details else f"no resource is served as {resource!r}; names are as deployments.apps"
                )
                return None
            return last if met(last) else None

        wanted = condition if isinstance(condition, str) else "as asked for"
        try:
            return until(f"{resource} {name} is {wanted}", look, timeout=timeout) or {}
        except AssertionError as e:
            told = missing or f"its status: {last.get('status')}"
            raise type(e)(f"{e}; {told}") from None

    def wait_gone(self, resource: str, name: str, *, timeout: float = TIMEOUT_S) -> None:
        """Wait until there is no such object of the namespace."""

        def look() -> bool:
            try:
                self.api.get(resource, name, self.namespace)
            except NotFound:
                return True
            return False

        until(f"{resource} {name} is gone", look, timeout=timeout)

    def story(self) -> list[tuple[str, str]]:
        """What happened in the namespace, for a report: titles and texts. Empty parts are left out."""
        asked = failing.told(self.cluster.directory, self.namespace, self._began)
        with ThreadPoolExecutor(1) as thread:  # a loop may run in this one, as a browser's driver does
            told = thread.submit(asyncio.run, asked).result()
        return [(title, text) for title, text in told if text]


@contextmanager
def own_namespace(cluster: Cluster, test: str, *, shared: bool = True) -> Iterator[ClusterInTest]:
    """The cluster for one test, named so; its namespace is being deleted when this ends, for others if it is shared."""
    slug = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[:_NAME_MAX].strip("-")
    namespace = f"{slug or 'test'}-{secrets.token_hex(3)}"
    with cluster.client() as api, tempfile.TemporaryDirectory(prefix="rayplane-test-") as place:
        api.create("namespaces", {"metadata": {"name": namespace}})
        try:
            # Without it nobody could make a pod.
            until(f"namespace {namespace} is ready for pods", lambda: api.list("serviceaccounts", namespace))
            config = yaml.safe_load(cluster.kubeconfig.read_text())
            for context in config["contexts"]:
                context["context"]["namespace"] = namespace
            file = Path(place) / "kubeconfig"
            file.touch(mode=0o600)
            file.write_text(yaml.safe_dump(config))
            yield ClusterInTest(cluster, namespace, file, api)
        finally:
            if shared and cluster in clusters.left():  # else its test has ended it
                with suppress(NotFound):
                    api.delete("namespaces", namespace)


@contextmanager
def leak_checked(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that is up, for many tests. LeftBehind when they leave more in it than there was."""
    with cluster:
        with cluster.client() as api:
            before = _cluster_wide(api)
        yield cluster
        with cluster.client() as api:
            with suppress(NotInTime):
                until("what goes by itself is gone", lambda: not _cluster_wide(api, GOING, _is_going) - before)
            if left := _cluster_wide(api) - before:
                raise LeftBehind(f"tests left behind: {', '.join(sorted(left))}; delete it where it was made")


def healed(cluster: Cluster, timeout: float = 2 * TIMEOUT_S) -> None:
    """End all faults, and wait until every part works again."""
    cluster.chaos.heal()
    until("every part of the cluster works again", lambda: _healthy(cluster), timeout=timeout)


def _healthy(cluster: Cluster) -> Any:
    return cluster.status()["healthy"]


def _cluster_wide(
    api: Client, kinds: Sequence[str] = CLUSTER_WIDE, which: Callable[[Object], bool] = lambda _: True
) -> set[str]:
    return {
        f"{kind.partition('.')[0]} {one['metadata']['name']}" for kind in kinds for one in api.list(kind) if which(one)
    }


def _is_going(obj: Object) -> bool:
    """Whether it is being deleted, or is a volume whose claim may be: a namespace that nobody deleted goes nowhere."""
    return bool(meta.metadata(obj).get("deletionTimestamp")) or meta.status(obj).get("phase") in ("Bound", "Released")
