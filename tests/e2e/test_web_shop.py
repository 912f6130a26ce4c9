"""A web shop from images on isolated nodes: what its customers meet, and what becomes of its database when it moves."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.conftest import running
from tests.e2e.guides import environment, lines, prepare, run, steps
from tests.e2e.harness import ROOT, Cluster, Kubectl, until
from tests.e2e.shop import Customer, build_images, database, identity_of_database, only_the_shop, shop
from tests.e2e.shop_images import PYTHON, missing
from tests.node.isolated import isolating
from tests.tiers import todays_part

pytestmark = isolating
GUIDE = "node/web_shop.md"
ASK_SHOP = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@dataclass(frozen=True)
class OfNobody(Cluster):
    """A cluster of a user who has no rights beyond his own, started by root."""

    def entry(self) -> list[str]:
        return [*AS_NOBODY]

    @staticmethod
    def why_not() -> str:
        if os.geteuid() != 0:
            return "only root can be somebody else"
        # As its pods do, in a user namespace: rights that root has left to nobody count for nothing there.
        tried = [*AS_NOBODY, "unshare", "--user", "--map-root-user", sys.executable, "-c", "import rayplane"]
        done = subprocess.run(tried, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stderr.strip().rpartition("\n")[2]


@pytest.fixture(scope="module", params=todays_part(2, [OfNobody, Cluster]), ids=lambda of: of.__name__)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param is OfNobody and (why := OfNobody.why_not()):
        pytest.skip(f"nobody cannot run this Python: {why}")
    [up] = [line for line in lines(GUIDE) if line.startswith("rayplane up ")]
    with tempfile.TemporaryDirectory() as home:
        if request.param is OfNobody:
            os.chown(home, NOBODY, NOBODY)
        of = request.param("e2e-web-shop", Path(home))
        with running(of, *shlex.split(up)[2:]) as made:
            yield made


@pytest.mark.skipif(bool(missing()), reason=f"this machine has no {missing()}")
def test_a_shop_sells_and_its_database_moves(cluster: Cluster, fresh_namespace: Callable[..., Kubectl]) -> None:
    build_images(cluster, cluster.home / "images")
    kubectl = fresh_namespace(cluster, "", "shop")
    authority = Authority.create("shop")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([*database(), *shop(authority)]))
    for name in ("statefulset/database", "deployment/cache", "deployment/shop", "deployment/stranger"):
        kubectl("rollout", "status", name, "--timeout=180s")
    customer = Customer(cluster, authority)
    until("the shop is served under its own certificate", lambda: customer.ask("PUT") is not None)
    assert customer.ask("POST", "a kettle; it's red") == ["1"]
    assert customer.ask("GET") == {"visits": 1, "orders": ["a kettle; it's red"]}

    balanced = kubectl.json("get", "service", "shop")["status"]["loadBalancer"]["ingress"][0]["ip"]
    # From within another pod, to which it is the same address as to people at the machine.
    said = kubectl("exec", "deployment/stranger", "--", PYTHON, "-c", ASK_SHOP, f"http://{balanced}/")
    assert json.loads(said)["orders"] == ["a kettle; it's red"]

    # Its tar gives each file to whose it was here, whom a cluster of nobody has no number for.
    kubectl("wait", "--for=condition=Ready", "pod/desk", "--timeout=60s")
    (sent := cluster.home / "sent").write_text("sent")
    if os.geteuid() == 0:
        os.chown(sent, 1000, 1000)
    kubectl("cp", str(sent), "desk:/tmp/sent")
    assert kubectl("exec", "desk", "--", "cat", "/tmp/sent") == "sent"

    identity = identity_of_database(kubectl, "stranger")
    assert identity.isdigit()
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(only_the_shop()))
    until("strangers are kept out", lambda: identity_of_database(kubectl, "stranger") == "shut")
    assert identity_of_database(kubectl, "shop") == identity

    before = kubectl.json("get", "pod", "database-0")
    kubectl("cordon", before["spec"]["nodeName"])
    kubectl("delete", "pod", "database-0", "--timeout=180s")
    kubectl("rollout", "status", "statefulset/database", "--timeout=180s")
    after = kubectl.json("get", "pod", "database-0")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["nodeName"] != before["spec"]["nodeName"]
    until("the shop finds its database", lambda: customer.ask("GET"))
    assert customer.ask("GET")["orders"] == ["a kettle; it's red"]
    assert customer.ask("POST", "tea") == ["2"]
    assert identity_of_database(kubectl, "shop") == identity and identity_of_database(kubectl, "stranger") == "shut"
    kubectl("uncordon", before["spec"]["nodeName"])


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "ldd", "openssl"))), reason="no curl, ldd or openssl")
def test_every_command_of_the_guide_works(cluster: Cluster) -> None:
    place = cluster.home / "guide"
    place.mkdir()
    # What it begins and ends with is done for all tests of this file.
    done_for_all = [line for line in lines(GUIDE) if line.startswith(("rayplane up", "rayplane down"))]
    command = prepare(place, [GUIDE], steps(GUIDE, done_for_all))
    if isinstance(cluster, OfNobody):
        os.chown(place, NOBODY, NOBODY)
    variables = environment(cluster.home) | {"RAYPLANE_NAME": cluster.name}
    run([*cluster.entry(), *command], place, variables)
