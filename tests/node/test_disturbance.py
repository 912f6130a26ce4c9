"""Packets that experiments have pods lose: the rules of a mark, and what pods meet of them."""

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.node_annotations import NO_RULES
from rayplane.control_plane.api.pods.marks import DISTURBED, Loss, Netem, loses
from rayplane.control_plane.backoff import Backoff
from rayplane.node.config import OFF, NodeConfig, NodeHostConfig
from rayplane.node.lifecycle import PodMachine, render_status
from rayplane.node.nftables.ruleset import NOTHING, Table
from rayplane.node.pod_rules import PodRules
from rayplane.node.policy.disturbance import LIMITS_MAX, OF_POD_MAX, Budget, held, of_pod, told
from rayplane.node.policy.enforcer import Enforcer, EnforcerConfig
from rayplane.node.policy.holding import NOT_YET
from rayplane.node.restarts import RestartTiming
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import Isolating, isolating, make_isolating
from tests.node.processes import run_in
from tests.node.test_policies_in_pods import OPEN, SHUT, World, world

__all__ = ["make_isolating", "world"]
HERE, THERE = "127.64.1.2", "127.64.1.3"


def lossy(*found: Loss | str, ip: str = HERE) -> dict[str, Any]:
    pod = make_pod("p", annotations={loses(str(n)): str(one) for n, one in enumerate(found)})
    pod["status"]["podIP"] = ip
    return pod


def listing(*pods: dict[str, Any]) -> list[str]:
    table = Table()
    for n, one in enumerate(pods):
        table.put(f"p{n}", of_pod(one))
    return [line for line in table.listing() if line.startswith("@")]


def test_pairs_of_addresses_are_cut_off_from_each_other() -> None:
    here, there = "7f400102", "7f400103"
    both = Loss(100, (THERE,), (THERE,))
    assert listing(lossy(both)) == [f"@cut {here}{there}", f"@cut {there}{here}"]
    assert listing(lossy(Loss(100, None, None))) == [f"@cut-from {here}", f"@cut-to {here}"]
    assert listing(lossy(both), lossy(Loss(100, (HERE,), ()), ip=THERE)) == listing(lossy(both)), "twice is once"


def test_a_part_is_lost_by_chance() -> None:
    assert len(listing(lossy(Loss(30, (THERE,), ())))) == 30


def test_what_is_more_than_a_rate_is_lost_each_way_by_itself() -> None:
    table = Table()
    table.put("p", of_pod(lossy(Loss(100, (THERE,), None, over=1000, burst=5), Loss(30, (THERE,), ()))))
    lines = [line.strip() for line in table.listing()]
    over = "limit rate over 1000 bytes/second burst 5 bytes drop"
    assert f"on-slow-7f400102-0: ip saddr . ip daddr @on-slow-7f400102-0-to {over}" in lines
    assert f"on-slow-7f400102-0: ip daddr {HERE} {over}" in lines
    assert "@on-slow-7f400102-0-to 7f4001027f400103" in lines
    assert len([line for line in lines if line.startswith("@lossy")]) == 30
    table.put("p", NOTHING)
    assert not [line for line in table.listing() if "slow" in line]


def test_copies_and_what_waits_are_behind_all_other_rules_and_only_while_there_is_a_queue() -> None:
    pod = lossy(Loss(0, (THERE,), None, netem=Netem(latency_ms=5, duplicate=1.5)))
    assert of_pod(pod) == NOTHING and listing(pod) == []
    table = Table()
    table.put("p", of_pod(pod, 7))
    here, there = "7f400102", "7f400103"
    lines = table.listing()
    assert "on-disturbed-30: ip saddr . ip daddr @held queue flags bypass to 7" in lines
    assert [line for line in lines if line.startswith("@held")] == [f"@held {here}{there}", f"@held-to {here}"]
    assert len([line for line in lines if line.startswith("@copied ")]) == 2, "parts of a hundred, rounded up"
    assert {*held(pod)} == {("", bytes.fromhex(here + there)), ("-to", bytes.fromhex(here))}
    pod["status"]["phase"] = "Succeeded"
    assert held(pod) == {}


def test_so_many_marks_hold_packets_of_a_pod_and_no_more_and_none_that_does_nothing() -> None:
    late = [Loss(0, None, (), netem=Netem(latency_ms=n + 1)) for n in range(3 * LIMITS_MAX)]
    (found,) = held(lossy(*late)).values()
    assert len(found) == LIMITS_MAX
    nothing = [Loss(0, (), None, netem=Netem(loss_correlation=50))] * LIMITS_MAX
    twice = Loss(0, (THERE, THERE), (), netem=Netem(latency_ms=1))
    assert [*held(lossy(*nothing, twice)).values()] == [[Netem(latency_ms=1)]]
    assert of_pod(lossy(*nothing), 7) == NOTHING
    copies = [Loss(0, (f"10.0.0.{n}",), (), netem=Netem(duplicate=1)) for n in range(20)]
    assert len(of_pod(lossy(*copies), 7).elements) == LIMITS_MAX


def test_without_marks_that_can_be_read_there_are_no_rules() -> None:
    odd = (
        "",
        '{"percent": 0, "to": null, "from": null, "netem": {"latency_ms": "x"}}',
        "{}",
        "[]",
        "null",
        '{"percent": 1e999, "to": [], "from": []}',
        "[" * 10_000,
    )
    more = ('{"percent": 100, "to": ["x"], "from": []}', '{"percent": 100, "to": "::1", "from": 3}')
    assert of_pod(lossy(*odd, *more)) == NOTHING == of_pod(lossy(Loss(100, (THERE,), ()), ip=""))
    assert len(listing(lossy(Loss(100, (THERE,) * 5000, ())))) == 1
    many = [Loss(99, tuple(f"10.0.{n}.{m}" for m in range(250)), ()) for n in range(20)]
    assert len(listing(lossy(*many))) < 1.1 * OF_POD_MAX


def test_a_pod_that_has_ended_has_no_rules_as_another_may_get_its_address() -> None:
    pod = lossy(Loss(100, (THERE,), ()))
    assert told(pod) == told({**pod, "metadata": {**pod["metadata"], "labels": {"a": "b"}}})
    pod["status"]["phase"] = "Succeeded"
    assert of_pod(pod) == NOTHING and told(pod) != told(lossy(Loss(100, (THERE,), ())))


def test_pods_of_a_host_have_so_many_rules_together_and_no_more() -> None:
    budget, thirty = Budget(50), of_pod(lossy(Loss(30, (THERE,), ())))
    assert [budget.take(uid, thirty) for uid in ("a", "a", "b")] == [True, True, False]
    assert budget.take("a", NOTHING) and budget.take("b", thirty) and not budget.take("a", thirty)


@pytest.mark.parametrize("trouble", ["", "the kernel takes no packet rules"])
def test_what_changes_no_rules_is_not_worked_on_and_what_is_not_done_is_said(trouble: str) -> None:
    kubelet = Mock()
    rules = PodRules(NodeHostConfig((NodeConfig("n1"),), ()), None, {"n1": kubelet}, Mock())
    rules.kernel, rules.enforcer, rules._events = Mock(table=Table()), Mock(trouble=trouble), Mock()
    pod = lossy(Loss(30, (THERE,), ()))
    pod["spec"]["nodeName"], uid = "n1", pod["metadata"]["uid"]
    rules.pod_event("ADDED", None, pod)
    rules.pod_event("MODIFIED", pod, {**pod, "spec": {**pod["spec"], "x": 1}})
    rules.enforcer.wake.assert_called_once_with()
    kubelet.restate.assert_called_once_with(uid)
    assert rules._events.record.called is bool(trouble)
    machine = PodMachine(pod, RestartTiming(Backoff(1, 1), 1, 1))
    status = render_status(machine, pod, host_ip="", stamp="now", undisturbed=rules.undisturbed(uid))
    told = [one for one in status["conditions"] if one["type"] == DISTURBED]
    assert [(one["status"], one["message"]) for one in told] == ([("False", trouble)] if trouble else [])
    said = {**pod, "status": status}
    assert not meta.get_condition({"status": render_status(machine, said, host_ip="", stamp="now")}, DISTURBED)
    later = {**pod, "metadata": {**pod["metadata"], "uid": "later", "annotations": {}}}
    rules.pod_event("MODIFIED", pod, later)
    assert not [line for line in rules.kernel.table.listing() if line.startswith("@")], "its namesake's are gone"
    assert not rules.undisturbed(uid)


def test_a_pod_whose_rules_are_too_many_has_none_and_says_so() -> None:
    rules = PodRules(NodeHostConfig((NodeConfig("n1"),), ()), None, {}, Mock())
    rules.kernel, rules.enforcer = Mock(table=Table()), Mock(trouble="")
    rules._budget = Budget(20)
    pod = lossy(Loss(30, (THERE,), ()))
    rules.pod_event("ADDED", None, pod)
    assert "pairs of addresses" in rules.undisturbed(pod["metadata"]["uid"])
    assert not [line for line in rules.kernel.table.listing() if line.startswith("@")]
    rules.pod_event("MODIFIED", pod, lossy(Loss(10, (THERE,), ())))
    assert not rules.undisturbed(pod["metadata"]["uid"])


def test_a_pod_that_had_to_go_without_has_its_rules_when_others_give_theirs_back() -> None:
    kubelet = Mock()
    rules = PodRules(NodeHostConfig((NodeConfig("n1"),), ()), None, {"n1": kubelet}, Mock())
    rules.kernel, rules.enforcer, rules._budget = Mock(table=Table()), Mock(trouble=""), Budget(50)
    pods = [lossy(Loss(30, (THERE,), ()), ip=f"127.64.1.{n}") for n in (4, 5, 6)]
    for n, pod in enumerate(pods):
        pod["spec"]["nodeName"], pod["metadata"]["uid"] = "n1", f"uid-{n}"
        rules.pod_event("ADDED", None, pod)
    assert [bool(rules.undisturbed(f"uid-{n}")) for n in range(3)] == [False, True, True]
    kubelet.reset_mock()
    calm = {**pods[0], "metadata": {**pods[0]["metadata"], "annotations": {}}}
    rules.pod_event("MODIFIED", pods[0], calm)
    assert [bool(rules.undisturbed(f"uid-{n}")) for n in range(3)] == [False, False, True]
    assert [line[:-8] for line in rules.kernel.table.listing() if line.startswith("@lossy")][-1].endswith("7f400105")
    assert [call.args[0] for call in kubelet.restate.call_args_list] == ["uid-0", "uid-1"], "what its pod says of it"
    rules.pod_event("DELETED", None, pods[1])
    assert not rules.undisturbed("uid-2")


def test_what_waits_for_the_queue_is_told_and_a_pod_without_rules_has_nothing_held() -> None:
    rules = PodRules(NodeHostConfig((NodeConfig("n1"),), ()), None, {"n1": Mock()}, Mock())
    rules.kernel, rules.enforcer, rules._events = Mock(table=Table()), Mock(trouble=""), Mock()
    wants: dict[str, Any] = {}
    rules.holding = Mock(number=0, trouble=NOT_YET, put=Mock(side_effect=wants.__setitem__), needs=wants.get)
    rules._budget = Budget(40)
    copies = Netem(duplicate=25)
    pods = [lossy(Loss(0, (THERE,), (), netem=copies), ip=f"127.64.1.{n}") for n in (4, 5)]
    for n, pod in enumerate(pods):
        pod["spec"]["nodeName"], pod["metadata"]["uid"] = "n1", f"uid-{n}"
        rules.pod_event("ADDED", None, pod)
    assert [rules.undisturbed(uid) for uid in wants] == [NOT_YET, NOT_YET]
    rules._events.record.assert_not_called()
    rules.holding.number, rules.holding.trouble = 7, ""
    rules.enforcer.wake.reset_mock()
    rules._hold()
    rules.enforcer.wake.assert_called_once_with()
    assert [*wants["uid-0"].values()] == [[copies]] and wants["uid-1"] == {}
    assert "pairs of addresses" in rules.undisturbed("uid-1") and not rules.undisturbed("uid-0")
    rules.pod_event("DELETED", None, pods[0])
    assert wants["uid-0"] == {} and [*wants["uid-1"].values()] == [[copies]]


async def test_a_kernel_that_refuses_rules_for_another_reason_than_before_is_told_of(api: FakeClient) -> None:
    kernel, turned = Mock(table=Table()), list[str]()
    facts = EnforcerConfig("n1", "", False, lambda: [], lambda: None)
    enforcer = Enforcer(facts, api, kernel, Mock())  # type: ignore[arg-type]
    enforcer.turned = lambda: turned.append(enforcer.trouble.rpartition(": ")[2])
    for refused in ("no room", "no room", "no such table", ""):
        kernel.apply = AsyncMock(side_effect=OSError(refused) if refused else None)
        await enforcer._apply()
    assert turned == ["no room", "no such table", ""]


async def test_a_node_without_packet_rules_says_so() -> None:
    isolated = Mock(isolation="namespaces", trouble="")
    rules = PodRules(NodeHostConfig((NodeConfig("n1"),), (), network_policy=OFF), isolated, {}, Mock())
    await rules.start(Mock(), Mock())
    assert isolated.isolation.endswith(NO_RULES)


#: Asks anew until so many answers to one question have come, the last no sooner than after so many seconds.
ASK_UNTIL = """
import socket, sys, time
count, least = int(sys.argv[2]), float(sys.argv[3])
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
        c.settimeout(2); c.connect((sys.argv[1], 8080)); began = time.monotonic(); c.send(b"?")
        try:
            for _ in range(count): c.recv(99)
        except TimeoutError:
            continue
        if time.monotonic() - began >= least: break
"""


async def until_answers(world: World, count: int, least_s: float = 0) -> None:
    """Rules of a mark that is changed come into force when they do, each way by itself."""
    _, err, code = await run_in(
        world.here, "web", "python3", "-c", ASK_UNTIL, world.ip("mate"), str(count), str(least_s)
    )
    assert code == 0, err


@pytest.mark.processes
@isolating
async def test_pods_that_are_parted_do_not_hear_each_other(
    api: FakeClient, make_isolating: Isolating, world: World
) -> None:
    to_mate = f"TCP {world.ip('mate')} 8080"
    await world.until(OPEN, "web", to_mate)

    async def mark(value: str | None) -> None:
        await api.patch("pods", "web", "default", {"metadata": {"annotations": {loses("e"): value}}})

    await mark(str(Loss(100, (world.ip("mate"),), ())))
    await world.until(SHUT, "web", to_mate)
    assert await world.ask("mate", f"TCP {world.ip('other')} 8080") == [OPEN], "others are not meant"
    await mark(str(Loss(100, (world.ip("mate"),), (), over=10**9, burst=1 << 16)))
    await world.until(OPEN, "web", to_mate)
    await mark(str(Loss(100, None, (), over=1)))
    await world.until(SHUT, "web", to_mate)
    await mark(str(Loss(0, (world.ip("mate"),), (), netem=Netem(duplicate=100))))
    await world.until(OPEN, "web", to_mate)
    await until_answers(world, 2)  # one for the question, one for its copy
    for lost in (Netem(corrupt=100), Netem(loss=100)):
        await mark(str(Loss(0, (world.ip("mate"),), (), netem=lost)))
        await world.until(SHUT, "web", to_mate)
    late = Netem(latency_ms=300)
    await mark(str(Loss(0, (world.ip("mate"),), (world.ip("mate"),), netem=late)))
    await world.until(OPEN, "web", to_mate)
    await until_answers(world, 1, 2 * late.latency_ms / 1000)  # there and back
    await mark(None)
    await world.until(OPEN, "web", to_mate)
