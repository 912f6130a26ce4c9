"""What a restored cluster keeps of the one it comes from, and what is made anew."""

import base64
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.apiserver.storage.encryption import API_VERSION, KIND, Encryption, all_keys
from rayplane.control_plane.cluster.backup import adapt, find_keys, move_addresses, restore, seedable
from rayplane.control_plane.cluster.config import SLOTS, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.specs import founders
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import TOPOLOGY_KEY, Machine, Phase, Role, founding
from rayplane.storage.backup import BackupHeader, write_backup
from rayplane.storage.env import LocalDisk
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store

OLD, NEW = AddressPlan(0), AddressPlan(2)


def store_with(**values: bytes) -> Store:
    store = Store(MemoryBackend(BUCKETS))
    with store.write() as txn:
        for key, value in values.items():
            txn.put(key.encode(), value)
    return store


def value(store: Store, key: str) -> bytes | None:
    found = store.get(key.encode())
    return None if found is None else found.value


def test_addresses_of_the_old_plan_move_and_others_stay() -> None:
    text = b'{"clusterIP":"127.24.0.10","podIP":"127.16.3.4","external":"127.25.0.1","other":"127.0.0.1 10.16.0.1"}'
    assert move_addresses(text, OLD, NEW) == (
        b'{"clusterIP":"127.56.0.10","podIP":"127.48.3.4","external":"127.57.0.1","other":"127.0.0.1 10.16.0.1"}'
    )


def test_addresses_of_isolated_pods_move_to_the_network_that_the_new_plan_has() -> None:
    text = b'["10.16.3.0/24","10.24.0.10","127.25.0.1","of others: 10.25.0.1 127.16.3.4"]'
    moved = b'["%d.48.3.0/24","%d.56.0.10","127.57.0.1","of others: 10.25.0.1 127.16.3.4"]'
    old = replace(OLD, isolated=True)
    assert move_addresses(text, old, replace(NEW, isolated=True)) == moved % (10, 10)
    assert move_addresses(text, old, NEW) == moved % (127, 127)
    assert move_addresses(b'["127.16.3.4","127.25.0.1"]', OLD, old) == b'["10.16.3.4","127.25.0.1"]'


PLANS = st.builds(AddressPlan, st.integers(0, SLOTS - 1), st.booleans())


@given(PLANS, PLANS, st.integers(0, 9), st.integers(0, 255), st.integers(0, 255))
def test_moving_there_and_back_changes_nothing(
    one: AddressPlan, other: AddressPlan, octet: int, third: int, fourth: int
) -> None:
    first = 10 if one.isolated and octet < 9 else 127
    text = b"%d.%d.%d.%d" % (first, 16 * (one.slot + 1) + octet, third, fourth)
    assert move_addresses(move_addresses(text, one, other), other, one) == text


def test_a_service_keeps_its_reservation_at_the_moved_address() -> None:
    store = store_with(
        **{
            "/registry/services/specs/default/web": b'{"spec":{"clusterIP":"127.24.0.10"}}',
            "/rayplane/allocations/clusterips/127.24.0.10": b"default/web",
        }
    )
    adapt(store, OLD, NEW)
    assert value(store, "/registry/services/specs/default/web") == b'{"spec":{"clusterIP":"127.56.0.10"}}'
    assert value(store, "/rayplane/allocations/clusterips/127.56.0.10") == b"default/web"
    assert value(store, "/rayplane/allocations/clusterips/127.24.0.10") is None


def test_what_belongs_to_the_old_place_is_gone_and_the_rest_untouched() -> None:
    store = store_with(
        **{
            TOPOLOGY_KEY.decode(): b"{}",
            "/registry/masterleases/127.0.0.1": b"{}",
            "/registry/leases/kube-system/kube-scheduler": b"{}",
            "/registry/configmaps/default/kube-root-ca.crt": b"old authority",
            "/registry/configmaps/default/settings": b"127.24.0.10 stays: it is the user's text",
            "/registry/leases/kube-node-lease/node-0": b"{}",
        }
    )
    adapt(store, OLD, NEW)
    assert [kv.key.decode() for kv in store.range(b"/", b"0").kvs] == [
        "/registry/configmaps/default/settings",
        "/registry/leases/kube-node-lease/node-0",
    ]
    assert value(store, "/registry/configmaps/default/settings") == b"127.24.0.10 stays: it is the user's text"


def test_members_on_other_machines_join_those_that_are_seeded() -> None:
    members = founding(ClusterConfig(members=3), (Machine("a"), Machine("b"), Machine("c")))
    seeded = seedable(members, lambda address: address == "b")
    assert [(m.phase, m.joins) for m in seeded.of(Role.MEMBER)] == [
        (Phase.JOINING, True),
        (Phase.ACTIVE, False),
        (Phase.JOINING, True),
    ]
    assert {i.name for i in members.instances} - {i.name for i in founders(seeded)} == {"member-0", "member-2"}
    with pytest.raises(ClusterError, match="restore on one of a, b, c"):
        seedable(members, lambda _: False)


def saved(config: ClusterConfig, *addresses: str) -> ClusterState:
    topology = founding(config, tuple(Machine(a, a) for a in addresses))
    return ClusterState(config=config, plan=OLD, topology=topology, running=False, host={"owned": False})


async def test_nothing_is_deleted_when_no_member_would_run_here(tmp_path: Path) -> None:
    config = ClusterConfig(name="old", members=1, address="192.0.2.1:6379")
    described = replace(header(), origin={"config": config.to_json(), "slot": 0})
    await write_backup(LocalDisk(tmp_path), "x.rpbackup", described, store_with().snapshot())
    directory = StateDir(tmp_path / "old")
    directory.create()
    directory.write(saved(config, "192.0.2.1"))
    data = directory.path / "data" / "member-0"
    data.mkdir(parents=True)
    with pytest.raises(ClusterError, match=r"restore on one of 192\.0\.2\.1"):
        await restore(directory, "old", tmp_path / "x.rpbackup", lambda _: None, force=True)
    assert data.is_dir()


def test_revisions_go_on_from_the_backup() -> None:
    store = store_with(**{"/registry/pods/default/a": b"{}"})
    before = store.revision
    adapt(store, OLD, OLD)
    assert store.revision >= before


# --- what is encrypted -------------------------------------------------------------------------

DOOR = b"/registry/secrets/default/door"


def keys(*letters: str, resources: str = "secrets") -> bytes:
    """An EncryptionConfiguration with these keys."""
    made = [{"name": c, "secret": base64.b64encode(c.encode() * 32).decode()} for c in letters]
    entry = {"resources": [resources], "providers": [{"aesgcm": {"keys": made}}, {"identity": {}}]}
    document = {"apiVersion": API_VERSION, "kind": KIND, "resources": [entry]}
    return json.dumps(document).encode()


def sealed(letter: str, key: bytes = DOOR, text: bytes = b"{}") -> bytes:
    transformer = Encryption.parse(keys(letter), random.Random(1).randbytes).exact["secrets"]
    return transformer.to_storage(key.decode(), text)


def header(source: Path | None = None) -> BackupHeader:
    return BackupHeader("old", 1, "", {"slot": 0} | ({"state_dir": str(source)} if source else {}))


def state_dir_with(path: Path, encryption: bytes) -> StateDir:
    (path / "pki").mkdir(parents=True)
    (path / "pki" / "encryption.yaml").write_bytes(encryption)
    return StateDir(path)


def test_the_keys_of_a_backup_are_the_given_ones_or_this_clusters_or_its_sources(tmp_path: Path) -> None:
    store = store_with(**{DOOR.decode(): sealed("a")})
    own = state_dir_with(tmp_path / "own", keys("b", "a"))
    other = state_dir_with(tmp_path / "other", keys("b"))
    source = state_dir_with(tmp_path / "source", keys("a"))
    assert find_keys(store, header(), own, b"") == keys("b", "a")
    assert find_keys(store, header(source.path), other, b"") == keys("a")
    assert find_keys(store, header(), other, keys("c", "a")) == keys("c", "a")
    assert find_keys(store_with(**{DOOR.decode(): b"{}"}), header(source.path), StateDir(tmp_path / "new"), b"") == b""


@pytest.mark.parametrize("given", [b"", keys("b"), b"nonsense"])
def test_a_backup_whose_keys_are_not_to_be_found_is_refused(tmp_path: Path, given: bytes) -> None:
    store = store_with(**{DOOR.decode(): sealed("a"), "/registry/secrets/default/gate": b"{}"})
    directory = state_dir_with(tmp_path / "own", keys("b"))
    with pytest.raises(ClusterError, match=r"--encryption-key FILE|cannot be used"):
        find_keys(store, header(tmp_path / "gone"), directory, given)
    # The same name, but another key.
    wrong = keys("b").replace(b'"b"', b'"a"')
    with pytest.raises(ClusterError, match=r"1 objects of the backup are encrypted \(key a\)"):
        find_keys(store, header(), directory, wrong)


def test_addresses_move_in_what_is_encrypted_and_it_stays_encrypted() -> None:
    pod = b"/registry/pods/default/web"
    store = store_with(**{pod.decode(): sealed("a", pod, b'{"podIP":"127.16.3.4"}')})
    reader = all_keys(keys("a"), random.Random(2).randbytes)
    adapt(store, OLD, NEW, reader)
    moved = value(store, pod.decode())
    assert moved is not None and moved.startswith(b"k8s:enc:aesgcm:v1:a:")
    assert reader.from_storage(pod.decode(), moved)[0] == b'{"podIP":"127.48.3.4"}'


async def test_nothing_is_touched_when_the_keys_are_missing(tmp_path: Path) -> None:
    store = store_with(**{DOOR.decode(): sealed("a")})
    described = replace(header(), origin={"config": ClusterConfig(name="old", host="process").to_json(), "slot": 0})
    await write_backup(LocalDisk(tmp_path), "x.rpbackup", described, store.snapshot())
    directory = StateDir(tmp_path / "new")
    with pytest.raises(ClusterError, match="--encryption-key"):
        await restore(directory, "new", tmp_path / "x.rpbackup", lambda _: None, force=True)
    assert not directory.path.exists()
