"""`rayplane why`: what replicas tell of an object, in words."""

from typing import Any

import pytest

from rayplane.control_plane.cluster.stories import lines
from rayplane.proto.rayplane.v1 import controllers_pb2 as pb

ASKED = {"resource": "replicasets.apps", "namespace": "default", "name": "web"}
SET = {"resource": "replicasets.apps", "object": "default/web"}
CHANGE = pb.Change(**SET, kind="MODIFIED", resource_version="7")
REFUSED = pb.Write(verb="create", resource="pods", object="default/web-", error="exceeded quota")


def look(second: int, **fields: Any) -> pb.Look:
    base = {"controller": "replicaset", "key": "default/web", "times": 1}
    return pb.Look(**{**base, "at": f"2026-01-01T00:00:{second:02}.250000Z", **fields})


def leader(**fields: Any) -> pb.WhyResponse:
    base = {"replica": "controllers-0", "leads": True, "since": "2026-01-01T00:00:00Z", "watchers": ["replicaset"]}
    return pb.WhyResponse(**{**base, "cached": "7", **fields})


def said(*answers: pb.WhyResponse, **silent: str) -> list[str]:
    return list(lines(ASKED, answers, silent))


def test_each_look_tells_its_change_and_what_was_done() -> None:
    wrote = pb.Write(verb="updatestatus", **SET, resource_version="8")
    first = look(1, changes=[CHANGE], changes_left_out=2, writes=[wrote], writes_left_out=3)
    second = look(2, controller="garbagecollector", key="object/x", times=4, requeue_after_s=5)
    assert said(leader(looks=[second, first])) == [
        "00:00:01.250  replicaset: replicasets.apps default/web modified @7 and 2 changes more",
        "    wrote the status of replicasets.apps default/web @8",
        "    and 3 writes more",
        "00:00:02.250  garbagecollector for object/x: its time had come, 4 times",
        "    nothing to do",
        "    looks again after 5.0 s",
        "controllers-0 leads since 00:00:00.000.",
        "They see it @7.",
    ]


def test_what_was_refused_is_told_once_and_tried_again() -> None:
    failed = {"writes": [REFUSED, REFUSED], "error": "exceeded quota"}
    standing = pb.Standing(controller="replicaset", key="default/web", looked=True, failures=3, due_in_s=0.5)
    found = said(leader(looks=[look(1, changes=[CHANGE], **failed), look(2, **failed)], standings=[standing]))
    assert found[1:4] == [
        "    was refused to create pods default/web-: exceeded quota, 2 times",
        "00:00:02.250  replicaset: it tried again",
        "    was refused to create pods default/web-: exceeded quota, 2 times",
    ]
    assert found[-1] == "  replicaset default/web: failed 3 times in a row, looks again in 0.5 s"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (leader(), "Nobody has acted on it. Controllers that watch replicasets.apps: replicaset."),
        (leader(watchers=[]), "No controller watches replicasets.apps."),
        (leader(looks=[look(1, error="KeyError: 'x'")]), "    failed: KeyError: 'x'"),
        (leader(forgotten=True), "What was not looked at for long may be forgotten."),
        (
            pb.WhyResponse(replica="controllers-0"),
            "Nobody leads now (controllers-0): no controller runs until one takes the lease kube-controller-manager.",
        ),
    ],
)
def test_why_nothing_happens(answer: pb.WhyResponse, text: str) -> None:
    assert text in said(answer)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "never looked"),
        ({"looked": True}, "waits for a change"),
        ({"looked": True, "working_s": 2}, "works on it for 2.0 s"),
        ({"looked": True, "queued_s": 3}, "waits for a worker for 3.0 s"),
        ({"looked": True, "held_for_s": 9}, "waits until the caches show what it wrote"),
        ({"looked": True, "due_in_s": 3600}, "looks again in 60m"),
    ],
)
def test_what_a_controller_waits_for(fields: dict[str, Any], text: str) -> None:
    standing = pb.Standing(controller="replicaset", key="default/web", **fields)
    assert said(leader(standings=[standing]))[-1] == f"  replicaset default/web: {text}"


def test_who_is_not_seen_and_who_is_silent() -> None:
    gone = pb.WhyResponse(replica="controllers-0", leads=True, since="2026-01-01T00:00:00Z", watchers=["replicaset"])
    found = said(gone, pb.WhyResponse(replica="controllers-1", looks=[look(1)]), x="it is dead")
    assert found[0] == "00:00:01.250  replicaset (controllers-1): its time had come"
    assert "x does not answer: it is dead" in found
    assert found[-1] == "They see no such object: check its name and namespace, or it was deleted."
