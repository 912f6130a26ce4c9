"""A trial of a whole cluster in one process: what was promised held, and a planted bug is found."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.scenario import parse
from rayplane.control_plane.cluster.trial import trial as trials
from rayplane.control_plane.cluster.trial.journal import Broken, Journal, alone
from rayplane.control_plane.cluster.trial.taping import recorded
from rayplane.control_plane.cluster.trial.trial import Trial, heal
from rayplane.control_plane.cluster.trial.verdict import Verdict, table
from rayplane.control_plane.cluster.trial.workload import Workload
from rayplane.control_plane.faults.vocabulary import Partition
from rayplane.control_plane.invariants.answers import NothingLost
from rayplane.control_plane.invariants.members import OneLeader
from rayplane.control_plane.invariants.pods import BoundOnce, OneOfAName, OneWriter
from rayplane.control_plane.invariants.services import BudgetsHonoured, EndpointsReady
from rayplane.control_plane.invariants.workloads import Converges, QuotasExact
from rayplane.control_plane.recordings import read
from rayplane.control_plane.tasks import cancel_and_wait
from tests.cluster.harness import Cluster, cluster

pytestmark = pytest.mark.timeout(300)

WORKLOAD = """
workload:
  - apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web, namespace: default}
    spec:
      replicas: 3
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec: {containers: [{name: web, image: "web:1"}]}
"""
ROLLED = f"""
name: rolled under fire
{WORKLOAD}
steps:
  - await: {{ready: cluster}}
  - await: {{deployment: web, replicas: 3}}
  - kill: leader
  - roll: {{deployment: web}}
  - await: {{deployment: web, replicas: 3}}
  - partition: {{hosts: [[member-0]], for: 2s}}
  - kill: pod random
faults:
  - {{kill: follower, at: 2s}}
  - {{kill: scheduler, when: {{deployment: web, rolled: 1}}}}
  - {{slow_network: {{delay: 5ms}}, at: 1s}}
expect:
  - {{deployment: web, replicas: 3}}
  - {{reads: {{available: 0%}}}}
"""
QUIET = f"{WORKLOAD}\nsteps: [{{await: {{deployment: web, replicas: 3}}}}]"


async def put_to_trial(c: Cluster, text: str, *, keep: bool = False, record: Path | None = None) -> Verdict:
    said: list[str] = []
    scenario = parse(text.encode(), "f")
    trial = Trial(c.access, scenario, 1, said.append, keep=keep)
    if record is None:
        verdict = await trial.run()
    else:
        verdict, data = await recorded(trial, c.access, scenario, 1)
        await asyncio.to_thread(record.write_bytes, data)
    print("\n".join([*said, *table(verdict)]))
    return verdict


def was_recorded(file: Path, verdict: Verdict) -> None:
    """What the recording says is what was."""
    found = read(file)
    assert (found.name, found.ok, found.failures) == ("rolled under fire", True, [])
    # Two that are ordered together may begin in either order.
    began = sorted(one.began_s for one in verdict.faults)
    assert [(mark.kind, mark.from_s) for mark in found.marks] == [("fault", at_s) for at_s in began]
    assert len(found.invariants) == len(verdict.invariants) and found.events == verdict.events
    rolled = next(at_s for at_s, text in verdict.events if "roll" in text)
    [web] = found.objects("deployments.apps", found.moment(rolled))
    assert meta.name(web) == "web" and len(found.objects("pods", found.moment(rolled))) == 3
    assert any(one.get("leader") for one in found.state(found.moment(rolled))["members"])


async def test_a_cluster_holds_its_promises_while_it_is_broken(tmp_path: Path) -> None:
    async with cluster(members=3, apiservers=2, nodes=2) as c:
        # What an earlier trial left, killed before it could clean up, is none of this one's.
        for key in (b"00000001", b"own/00000001", b"shared/000001-0"):
            await c.access.etcd.put(b"/rayplane/trial/" + key, b"of old")
        verdict = await put_to_trial(c, ROLLED, record=tmp_path / "file")
        assert verdict.ok, table(verdict)
        # From outside nobody sees what runs on nodes; and there are neither volumes, services, budgets nor quotas.
        unseen = {OneOfAName, OneWriter, EndpointsReady, BudgetsHonoured, QuotasExact}
        assert {kind.name for kind in unseen} <= {*verdict.unseen}
        assert not {kind.name for kind in (BoundOnce, NothingLost, Converges, OneLeader)} & {*verdict.unseen}
        struck = {one.text.partition(":")[0] for one in verdict.faults}
        assert struck == {"kill", "partition", "slow_network"} and len(verdict.faults) == 6
        was_recorded(tmp_path / "file", verdict)
        assert all(one.ended_s is not None and one.recovered_s is not None for one in verdict.faults)
        assert {track.what for track in verdict.tracks} == {"reads", "writes", "app"}
        assert Journal(c.directory).read() == []
        # Nothing of the trial's own is left, and messages pass as before.
        assert await c.api.list("configmaps", "default") and c.host._fabric.link is not c.host._weather
        left = (await c.access.etcd.range(b"/rayplane/trial", b"/rayplane/trialz")).kvs
        assert [kv.key for kv in left] == []
        assert not (await c.api.list("deployments.apps", "default")).items and not await c.pods()


async def bind_twice(c: Cluster) -> None:
    """A bug: somebody writes another node into a pod that is bound, past the API."""
    [pod] = (await c.api.list("pods", "default", limit=1)).items
    key = f"/registry/pods/default/{meta.name(pod)}".encode()
    [kv] = (await c.access.etcd.range(key)).kvs
    obj = orjson.loads(kv.value)
    obj["spec"]["nodeName"] = "elsewhere"
    await c.access.etcd.put(key, orjson.dumps(obj))


async def test_a_planted_bug_is_found_on_a_live_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=1) as c:
        settle = Trial._settle

        async def planted(self: Any) -> None:
            await bind_twice(c)
            await settle(self)

        monkeypatch.setattr(Trial, "_settle", planted)
        monkeypatch.setattr("rayplane.control_plane.cluster.trial.trial.SETTLE_S", 2.0)
        await c.access.etcd.put(b"/rayplane/trial/00000001", b"of an earlier one")
        await heal(c.access)
        assert not (await c.access.etcd.range(b"/rayplane/trial/00000001")).kvs
        verdict = await put_to_trial(c, f"{QUIET}\nfaults: [{{kill: leader, at: 1h}}]", keep=True)
        assert (await c.api.get("deployments.apps", "web", "default")) and not Workload(c.directory).read()
        assert not verdict.ok
        assert "to elsewhere" in verdict.invariants["no pod bound twice"][0]
        assert verdict.in_vain == ["kill: leader: its time did not come"] and not verdict.faults


async def test_an_interrupted_trial_heals_what_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "TURN_S", 0.2)
    async with cluster(members=3, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        parted = "steps: [{partition: {hosts: [[member-0]], for: 1h}}]"
        trial = asyncio.create_task(put_to_trial(c, parted))
        async with asyncio.timeout(60):
            while not (Path(c.directory.path) / "broken.json").exists():
                await asyncio.sleep(0.01)
            while c.host._fabric.link is not c.host._weather:
                await asyncio.sleep(0.01)
        await cancel_and_wait(trial)
        assert c.host._fabric.link is not c.host._weather and Journal(c.directory).read() == []
        # What one leaves broken the next one neither forgets nor suffers from; and there is one at a time.
        Journal(c.directory).breaks(Broken(Partition((("member-0",),)), ("member-0",)))
        with pytest.raises(ClusterError, match="chaos heal"):
            await put_to_trial(c, parted)
        with alone(c.directory):
            for other in (put_to_trial(c, parted), heal(c.access, turn_s=0.2)):
                with pytest.raises(ClusterError, match="wait for it"):
                    await other
        left, failed = await heal(c.access)
        assert len(left) == 1 and failed == [] and Journal(c.directory).read() == []
