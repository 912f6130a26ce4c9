"""`import rayplane` in a program: it costs nothing, and brings clusters up and down."""

import inspect
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

import rayplane
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.testing.cluster import Flags, Options
from scripts.demo_job.commands import leftovers
from tests.e2e.harness import until

SMALL: Options = {"members": 1, "apiservers": 1, "schedulers": 1, "controllers": 1, "nodes": 1}

ONCE = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}
EACH_MINUTE = {
    "metadata": {"name": "each", "namespace": "default"},
    "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": ONCE}},
}
PASSING = {"metadata": {"name": "passing", "namespace": "default"}, "spec": ONCE | {"ttlSecondsAfterFinished": 20}}


def test_importing_the_package_imports_nothing_of_its_parts() -> None:
    program = "import sys, typing; before = set(sys.modules); import rayplane; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rayplane"]


def test_every_flag_of_up_is_an_option() -> None:
    assert {f.name for f in fields(ClusterConfig)} == {"name", "host", *Flags.__annotations__}
    assert set(rayplane.__all__) <= {*dir(rayplane), *rayplane.__all__}
    for name in rayplane.__all__:
        assert getattr(rayplane, name)


@pytest.mark.parametrize("where", [rayplane, rayplane.Cluster])
def test_the_documented_example_runs(where: object) -> None:
    lines = inspect.getsource(where).splitlines()  # type: ignore[arg-type]
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("with rayplane.Cluster"))
    end = next(i for i in range(start, len(lines)) if not lines[i].strip())
    exec(textwrap.dedent("\n".join(lines[start:end])), {"rayplane": rayplane})


def test_a_cluster_lives_as_long_as_its_block() -> None:
    with rayplane.Cluster(**SMALL) as cluster:
        place = str(cluster.state_dir)
        assert cluster.status()["healthy"]
        assert json.loads(cluster.run("endpoints", "-o", "json")) == cluster.endpoints
        assert cluster.kubectl("get", "nodes", "-o", "name").split() == ["node/node-0"]
        cluster.run(
            "apply", "-f", "-", stdin='{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}}'
        )
        with pytest.raises(rayplane.CommandFailed, match="nothing") as failed:
            cluster.kubectl("get", "configmap", "nothing")
        assert failed.value.exit_code == 1
        with pytest.raises(UsageError, match="already"):
            cluster.start()
        time_goes_by(cluster)
    assert leftovers([place]) == []
    assert not Path(place).exists()
    with pytest.raises(rayplane.ClusterError, match="not up"):
        _ = cluster.kubeconfig


def time_goes_by(cluster: rayplane.Cluster) -> None:
    with cluster.client() as api:
        api.create("cronjobs.batch", EACH_MINUTE)
        first, led = api.create("jobs.batch", PASSING), leads(api)
        cluster.advance("2m")
        made = [one["metadata"]["name"].rpartition("-")[0] for one in api.list("jobs.batch")]
        assert made and {*made} == {"each"}  # and the other has passed
        conditions = {one["type"]: one for one in api.get("nodes", "node-0")["status"]["conditions"]}
        assert conditions["Ready"]["status"] == "True"
        assert conditions["Ready"]["lastTransitionTime"] <= first["metadata"]["creationTimestamp"]
        assert led and leads(api) == led
    [then] = cluster.get("job/passing", at=first["metadata"]["resourceVersion"])
    assert then["metadata"]["uid"] == first["metadata"]["uid"]
    assert cluster.status()["healthy"]
    with pytest.raises(UsageError, match="such as 2h"):
        cluster.advance("soon")


def leads(api: rayplane.Client) -> dict[str, str]:
    """Since when whoever leads does."""
    leases = api.list("leases.coordination.k8s.io", namespace="kube-system")
    return {one["metadata"]["name"]: one["spec"]["acquireTime"] for one in leases if "acquireTime" in one["spec"]}


async def test_asyncio_has_the_same() -> None:
    async with rayplane.AsyncCluster(**SMALL) as cluster:
        place = cluster.kubeconfig.parent
        assert (await cluster.status())["healthy"]
        async with cluster.client() as api:
            assert [node["metadata"]["name"] for node in (await api.list("nodes")).items] == ["node-0"]
    assert not place.exists()


def test_data_in_a_directory_of_the_users_stays(tmp_path: Path) -> None:
    for present in ([], ["configmap/kept"]):
        with rayplane.Cluster(name="mine", state_dir=tmp_path / "state", **SMALL) as cluster:
            kept = cluster.kubectl("get", "configmap", "kept", "--ignore-not-found", "-o", "name").split()
            assert kept == present
            if not kept:
                cluster.kubectl("create", "configmap", "kept")


def test_a_block_that_fails_leaves_no_process() -> None:
    place = ""
    with pytest.raises(ZeroDivisionError), rayplane.Cluster(**SMALL) as cluster:
        place = str(cluster.state_dir)
        _ = 1 / 0
    assert leftovers([place]) == []


def test_options_that_make_no_sense_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="--members 2"):
        rayplane.Cluster(members=2)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
@pytest.mark.parametrize("when", ["up", "coming up"])
def test_a_cluster_does_not_outlive_its_program_however_that_ends(number: signal.Signals, when: str) -> None:
    said = "cluster.start(); print(cluster.state_dir, flush=True)" if when == "up" else "cluster.start()"
    program = f"""
        import rayplane, time
        from rayplane.control_plane.cluster import launch
        up = launch._start_process
        def started(directory):
            pid = up(directory)
            print(directory.path, flush=True)
            return pid
        if {when != "up"}:
            launch._start_process = started
        cluster = rayplane.Cluster(**{SMALL})
        {said}
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        place = owner.stdout.readline().strip()
        assert place and leftovers([place])
        owner.send_signal(number)
    until(f"nothing is left of {place}", lambda: not (leftovers([place]) or Path(place).exists()))
