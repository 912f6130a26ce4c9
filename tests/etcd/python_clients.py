"""A session of each Python client of etcd, told line by line: the same lines are wanted beside a real etcd.

python -m tests.etcd.python_clients etcd3|aetcd HOST PORT    # in a process of its own: etcd3 needs another protobuf
"""

import asyncio
import io
import queue
import sys
from typing import Any

WAIT_S = 10


def tell(what: str, *values: object) -> None:
    print(what, *values)


def _error(work: Any, *arguments: Any, **options: Any) -> str:
    try:
        work(*arguments, **options)
    except Exception as e:
        return f"{type(e).__name__} {e}"
    return "no error"


def etcd3_session(host: str, port: int) -> None:
    import etcd3

    with etcd3.client(host=host, port=port, timeout=10) as client:
        _etcd3_keys(client)
        _etcd3_watches(client)
        _etcd3_leases(client)
        _etcd3_operators(client)


def _etcd3_keys(client: Any) -> None:
    client.put("a", "1")
    tell("prev", client.put("a", "2", prev_kv=True).prev_kv.value)
    value, about = client.get("a")
    tell("get", value, about.key, about.version, about.mod_revision - about.create_revision)
    tell("none", client.get("none"))
    tell("created", client.put_if_not_exists("a", "3"), client.put_if_not_exists("new", "3"))
    tell("replaced", client.replace("a", "2", "4"), client.replace("a", "2", "5"))
    for number in range(5):
        client.put(f"p{number}", str(5 - number))
    by_value = client.get_prefix("p", sort_order="ascend", sort_target="value")
    tell("sorted", [(v, m.key) for v, m in by_value])
    tell("range", [v for v, _ in client.get_range("p1", "p4")], len(list(client.get_all(keys_only=True))))
    tell("serializable", client.get("a", serializable=True)[0])
    tell("deleted", client.delete("new"), client.delete("new"), client.delete_prefix("p").deleted)
    transactions = client.transactions
    done = client.transaction(
        compare=[transactions.value("a") == "4", transactions.version("a") > 1, transactions.create("none") == 0],
        success=[
            transactions.put("t", "x"),
            transactions.get("t"),
            transactions.txn(compare=[], success=[transactions.delete("u")], failure=[]),
        ],
        failure=[transactions.get("a")],
    )
    tell("transaction", done[0], [kv[0] for kv in done[1][1]], len(done[1]))
    failed = client.transaction(compare=[transactions.mod("a") == 0], success=[], failure=[transactions.get("a")])
    tell("failed", failed[0], failed[1][0][0][0])
    head = client.get("a")[1].mod_revision
    client.compact(head, physical=True)
    tell("compacted", _error(client.compact, head))


def _etcd3_watches(client: Any) -> None:
    events: queue.Queue[Any] = queue.Queue()
    watching = client.add_watch_callback("w", events.put)
    client.put("w", "1")
    client.delete("w")
    seen = [e for _ in range(2) for e in events.get(timeout=WAIT_S).events]
    tell("callback", [(type(e).__name__, e.key, e.value) for e in seen])
    client.cancel_watch(watching)
    start = client.get("a")[1].mod_revision
    iterator, cancel = client.watch_prefix("w", start_revision=start + 1, prev_kv=True)
    first = [next(iterator) for _ in range(2)]
    tell("past", [(type(e).__name__, e.key, e.value, e.prev_value) for e in first])
    client.put("w/x", "now")
    tell("present", next(iterator).key)
    cancel()
    compacted, cancel = client.watch("w", start_revision=1)
    tell("watch compacted", _error(next, compacted))
    tell("nothing", _error(client.watch_once, "never", timeout=0.2))


def _etcd3_leases(client: Any) -> None:
    lease = client.lease(60, lease_id=4242)
    client.put("leased", "v", lease=lease)
    tell("lease", lease.id, lease.ttl, lease.granted_ttl, lease.remaining_ttl > 50, lease.keys)
    tell("refreshed", [r.TTL for r in lease.refresh()])
    lease.revoke()
    tell("revoked", client.get("leased"), client.get_lease_info(4242).TTL)
    tell("again", _error(client.revoke_lease, 4242))
    with client.lock("mutex", ttl=20) as lock:
        # No contention here: waiting needs a tenacity of long ago.
        tell("lock", lock.is_acquired(), len(list(client.get_prefix("/locks/"))))
    other = client.lock("mutex", ttl=20)
    tell("unlocked", lock.is_acquired(), other.acquire(timeout=5), other.release())


def _etcd3_operators(client: Any) -> None:
    tell("members", [(m.name, m.id == client.status().leader.id) for m in client.members])
    status = client.status()
    tell("status", status.version[:3], status.db_size > 0, status.raft_index > 0, status.raft_term > 0)
    tell("hash", client.hash() > 0, client.defragment() is None)
    tell("alarms", list(client.list_alarms()), [a.alarm_type for a in client.create_alarm(5)])
    tell("refused", _error(client.put, "full", "x"))
    tell("disarmed", [a.member_id for a in client.disarm_alarm(5)], list(client.list_alarms()))
    file = io.BytesIO()
    client.snapshot(file)
    tell("snapshot", len(file.getvalue()) % 512)
    tell("unknown member", _error(client.remove_member, 12345), _error(client.update_member, 12345, ["http://x:1"]))


async def aetcd_session(host: str, port: int) -> None:
    import aetcd

    async with aetcd.Client(host=host, port=port, timeout=10) as client:
        await _aetcd_keys(client)
        await _aetcd_watches(client)
        await _aetcd_leases(client)
        await _aetcd_operators(client)


async def _aetcd_keys(client: Any) -> None:
    await client.put(b"a", b"1")
    tell("prev", (await client.put(b"a", b"2", prev_kv=True)).prev_kv.value)
    found = await client.get(b"a")
    tell("get", found.value, found.version, await client.get(b"none"))
    for number in range(5):
        await client.put(b"p%d" % number, b"%d" % (5 - number))
    by_value = await client.get_prefix(b"p", sort_order="descend", sort_target="value")
    tell("sorted", [(kv.key, kv.value) for kv in by_value])
    tell("range", [kv.key for kv in await client.get_range(b"p1", b"p4")])
    tell("all", len(list(await client.get_all(keys_only=True))), await client.replace(b"a", b"2", b"3"))
    tell("deleted", (await client.delete(b"p0", prev_kv=True)).prev_kv.value, await client.delete(b"p0"))
    tell("prefix", (await client.delete_prefix(b"p")).deleted, (await client.delete_range(b"x", b"z")).deleted)
    transactions = client.transactions
    done = await client.transaction(
        compare=[transactions.value(b"a") == b"3", transactions.version(b"a") > 0],
        success=[transactions.put(b"t", b"x"), transactions.get(b"t"), transactions.delete(b"u")],
        failure=[transactions.get(b"a")],
    )
    tell("transaction", done[0], [kv[0] for kv in done[1][1]])


async def _aetcd_watches(client: Any) -> None:
    head = (await client.get(b"a")).mod_revision
    await client.put(b"w1", b"1")
    watching = await client.watch_prefix(b"w", start_revision=head + 1, prev_kv=True)
    await client.put(b"w1", b"2")
    await client.delete(b"w1")
    seen = []
    async for event in watching:
        seen.append((event.kind, event.kv.key, event.kv.value, event.prev_kv and event.prev_kv.value))
        if len(seen) == 3:
            break
    tell("watch", seen)
    await watching.cancel()
    once = asyncio.create_task(client.watch_once(b"once", timeout=WAIT_S))
    while not once.done():
        await client.put(b"once", b"x")
        await asyncio.sleep(0.02)
    tell("once", once.result().kv.value)
    deletes = await client.watch(b"f", start_revision=head + 1, kind=client_kind("DELETE"))
    await client.put(b"f", b"x")
    await client.delete(b"f")
    async for event in deletes:
        tell("filtered", event.kind)
        break
    await deletes.cancel()


def client_kind(name: str) -> Any:
    from aetcd import rtypes  # type: ignore[import-not-found, unused-ignore]

    return rtypes.EventKind[name]


async def _aetcd_leases(client: Any) -> None:
    lease = await client.lease(60, lease_id=4343)
    await client.put(b"leased", b"v", lease=lease)
    tell("lease", lease.id, lease.ttl, await lease.granted_ttl(), await lease.keys())
    tell("refreshed", await lease.remaining_ttl() > 50, (await client.refresh_lease(4343)).TTL)
    await client.revoke_lease(4343)
    tell("revoked", await client.get(b"leased"), (await client.get_lease_info(4343)).TTL)
    async with client.lock(b"mutex", ttl=20) as lock:
        tell("locked", await lock.is_acquired())
    tell("unlocked", await lock.is_acquired())


async def _aetcd_operators(client: Any) -> None:
    status = await client.status()
    tell("status", status.version[:3], status.db_size > 0, status.raft_term > 0)
    tell("members", [m.name async for m in client.members()])
    tell("hash", await client.hash() > 0, await client.defragment())
    tell("alarms", [a.alarm_type async for a in client.list_alarms()])
    file = io.BytesIO()
    await client.snapshot(file)
    tell("snapshot", len(file.getvalue()) % 512)
    head = (await client.get(b"a")).mod_revision
    await client.compact(head, physical=True)
    try:
        await client.compact(head)
    except Exception as e:
        tell("compacted", type(e).__name__, e)


if __name__ == "__main__":
    if sys.argv[1] == "etcd3":
        etcd3_session(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(aetcd_session(sys.argv[2], int(sys.argv[3])))
