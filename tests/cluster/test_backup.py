"""What a restored cluster keeps of the one it comes from, and what is made anew."""

from hypothesis import given
from hypothesis import strategies as st

from control_plane.cluster.backup import adapt, move_addresses
from control_plane.cluster.config import SLOTS, AddressPlan
from control_plane.cluster.topology import TOPOLOGY_KEY
from storage.mvcc import MemoryBackend, Store

OLD, NEW = AddressPlan(0), AddressPlan(2)


def store_with(**values: bytes) -> Store:
    store = Store(MemoryBackend())
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


@given(
    st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1), st.integers(0, 9), st.integers(0, 255), st.integers(0, 255)
)
def test_moving_there_and_back_changes_nothing(a: int, b: int, octet: int, third: int, fourth: int) -> None:
    one, other = AddressPlan(a), AddressPlan(b)
    text = b"127.%d.%d.%d" % (16 * (a + 1) + octet, third, fourth)
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


def test_revisions_go_on_from_the_backup() -> None:
    store = store_with(**{"/registry/pods/default/a": b"{}"})
    before = store.revision
    adapt(store, OLD, OLD)
    assert store.revision >= before
