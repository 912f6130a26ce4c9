"""Trials of one cluster from several places: each leaves what the others write, and what is orphaned goes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import rayplane.testing
from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.trial.etcd_promises import ETCD_PROMISES, EtcdPromises
from rayplane.control_plane.cluster.trial.living import (
    KEYS,
    KEYS_END,
    LEASE_S,
    TRIALS,
    TRIALS_END,
    Life,
    between,
    delete_orphans,
    keys_of,
)
from rayplane.control_plane.cluster.trial.trial import CLIENT, _delete_written
from rayplane.control_plane.tasks import cancel_and_wait

HERE, THERE = b"here /a", b"there /a"


def test_all_keys_but_those_of_the_living_are_between_them() -> None:
    assert between(frozenset()) == [(KEYS, KEYS_END)]
    ranges = between(frozenset({"b", "a0"}))

    def goes(key: bytes) -> bool:
        return any(start <= KEYS + key < end for start, end in ranges)

    assert not any(map(goes, (b"a0/own/1", b"b/", b"b/leased/1/x")))
    assert all(map(goes, (b"1", b"a/own/1", b"a00/own/1", b"own/1", b"c/x", b"b", b"ba/x")))


async def _begun(etcd: EtcdClient, place: bytes, token: str) -> Life:
    life = Life(etcd, place, token)
    await life.begin()
    await etcd.put(keys_of(token) + b"own/1", b"-")
    return life


async def _left(etcd: EtcdClient) -> list[bytes]:
    return [kv.key.removeprefix(KEYS) for kv in (await etcd.range(KEYS, KEYS_END)).kvs]


async def _others_stay(etcd: EtcdClient) -> None:
    mine, others = await _begun(etcd, HERE, "mine"), await _begun(etcd, THERE, "others")
    await _begun(etcd, HERE, "killed")
    await etcd.put(KEYS + b"own/00000001", b"of an earlier build")
    assert await delete_orphans(etcd, HERE, "mine") == {"mine", "others"}
    assert await _left(etcd) == [b"mine/own/1", b"others/own/1"]
    # Who heals there, and has the lock, knows that nobody tries there.
    assert await delete_orphans(etcd, HERE) == {"others"}
    assert await _left(etcd) == [b"others/own/1"]
    await others.end()
    await mine.end()
    assert not await _left(etcd) and not (await etcd.range(TRIALS, TRIALS_END)).kvs


def test_trials_elsewhere_keep_what_they_write() -> None:
    with rayplane.testing.etcd() as etcd:
        etcd.do(_others_stay)


def test_what_a_lost_place_has_left_goes_when_nobody_has_renewed_it_for_long() -> None:
    with rayplane.testing.etcd() as etcd:
        etcd.do(lambda client: _begun(client, THERE, "lost"))
        etcd.advance(2 * LEASE_S)
        assert etcd.do(lambda client: delete_orphans(client, HERE)) == frozenset()
        assert etcd.do(_left) == []


async def _one_begins_meanwhile(etcd: EtcdClient) -> None:
    txn, begun = etcd.txn, list[Life]()

    async def late(*words: Any, **options: Any) -> Any:
        if not begun:
            begun.append(await _begun(etcd, THERE, "new"))
        return await txn(*words, **options)

    with patch.object(etcd, "txn", late):
        assert await delete_orphans(etcd, HERE) == {"new"}
    assert await _left(etcd) == [b"new/own/1"]
    await begun[0].end()


def test_one_that_begins_just_then_loses_nothing() -> None:
    with rayplane.testing.etcd() as etcd:
        etcd.do(_one_begins_meanwhile)


async def _told(etcd: EtcdClient) -> list[bytes]:
    return [kv.value for kv in (await etcd.range(TRIALS, TRIALS_END)).kvs]


def test_a_life_lasts_while_it_goes_on_also_when_its_lease_ran_out_while_etcd_was_away() -> None:
    async def going(life: Life) -> "asyncio.Task[None]":
        return asyncio.create_task(life.go_on())

    with rayplane.testing.etcd() as etcd:
        life = etcd.do(lambda client: _begun(client, THERE, "long"))
        task = etcd.do(lambda _: going(life))
        etcd.advance(3 * LEASE_S)
        assert etcd.do(_told) == [THERE]
        # Between its turns, of which one may come at any moment.
        etcd.do(lambda _: cancel_and_wait(task))
        etcd.do(lambda client: client.lease_revoke(life._lease))
        assert etcd.do(_told) == []
        task = etcd.do(lambda _: going(life))
        etcd.advance(LEASE_S)
        assert etcd.do(_told) == [THERE]
        etcd.do(lambda _: cancel_and_wait(task))
        etcd.advance(2 * LEASE_S)
        assert etcd.do(_told) == []
        etcd.do(lambda _: life.end())
        assert etcd.do(_left) == []


class _Api:
    """An API with the ConfigMaps of these trials."""

    def __init__(self, *tokens: str) -> None:
        self.names = [f"{CLIENT}{token}-0" for token in tokens]

    async def list(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(items=[{"metadata": {"name": name}} for name in [*self.names, "somebody-elses"]])

    async def delete(self, _: str, name: str, __: str) -> None:
        self.names.remove(name)


def test_who_heals_deletes_objects_of_trials_that_live_no_more_alone(tmp_path: Path) -> None:
    api = _Api("others", "killed")
    with rayplane.testing.etcd() as etcd:
        etcd.do(lambda client: _begun(client, THERE, "others"))
        admin: Any = SimpleNamespace(api=api, directory=StateDir(tmp_path))
        etcd.do(lambda client: _delete_written(SimpleNamespace(**vars(admin), etcd=client)))  # type: ignore[arg-type]
    assert api.names == [f"{CLIENT}others-0"]


async def _put_to_the_test(etcd: EtcdClient, directory: StateDir, tokens: list[str]) -> list[tuple[str, str]]:
    """Trials of one cluster at a time, one of which begins while another goes on; what they find wrong."""
    wrong: list[tuple[str, str]] = []
    loop, tasks, begun = asyncio.get_running_loop(), list[asyncio.Task[None]](), list[EtcdPromises]()
    for token in tokens:
        admin: Any = SimpleNamespace(etcd=etcd, directory=StateDir(directory.path / token))
        promises = EtcdPromises(
            admin, lambda *found: wrong.append(found), loop.time, lambda: etcd.endpoints.addresses, token
        )
        await promises.begin()
        tasks += [loop.create_task(one) for one in [*promises.writing(), *promises.watching()]]
        begun.append(promises)
        await asyncio.sleep(0.5)
    await cancel_and_wait(*tasks)
    for promises in begun:
        assert await promises.finish() == [] and promises.looked[ETCD_PROMISES]
        await promises.clean_up()
    return wrong


def test_trials_that_begin_beside_each_other_find_nothing_wrong(tmp_path: Path) -> None:
    with rayplane.testing.etcd() as etcd:
        assert etcd.do(lambda client: _put_to_the_test(client, StateDir(tmp_path), ["a", "b"])) == []
        assert etcd.do(_left) == [] and etcd.do(_told) == []
