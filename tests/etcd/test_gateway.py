"""HTTP on the client port: as etcd's, request by request; and etcd3gw works with it."""

import asyncio
import json
import math
from typing import Any

import aiohttp
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.etcd.server.web.gateway.messages import as_object, dump, fill
from rayplane.control_plane.etcd.server.web.gateway.syntax import JsonError, first_value, only_value
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd import gateway_requests as requests
from tests.etcd.side_by_side import OwnSide, Pair
from tests.etcd.web_client import HttpAnswer, HttpStream, ask

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def own(sides: Pair) -> OwnSide:
    return sides.own


def address(side: Any) -> str:
    return str(side.endpoints[0].address)


def same(pair: Pair, path: str, body: str | None, **options: Any) -> HttpAnswer:
    """Ask both; the real one's answer."""
    real, own = (ask(address(side), path, body, **options) for side in pair.sides)
    asked = f"{path} {body!r} {options or ''}"
    assert (own.status, own.text, own.headers) == (real.status, real.text, real.headers), asked
    return real


# Side by side


def test_requests_are_read_alike(pair: Pair) -> None:
    for key in ("Zm9v", "Zm9v", "Zm9w"):
        same(pair, "/v3/kv/put", f'{{"key":"{key}","value":"YQ=="}}')
    for body in requests.RANGES:
        same(pair, "/v3/kv/range", body)


def test_what_cannot_be_read_is_refused_alike(pair: Pair) -> None:
    bodies = [*requests.BAD_SYNTAX, *(f'{{"key":"YQ==",{field}}}' for field in requests.BAD_VALUES)]
    bodies += [f'{{"key":"{text}"}}' for text in requests.BAD_BASE64]
    for body in bodies:
        same(pair, "/v3/kv/range", body)


def test_calls_are_answered_alike(pair: Pair) -> None:
    for path, body in requests.CALLS:
        same(pair, f"/v3/{path}", body)
    for path, body, headers in requests.HEADED:
        same(pair, f"/v3/{path}", body, headers=headers)
    same(pair, "/v3beta/kv/put", '{"key":"Zm9v"}')


def test_paths_and_methods(pair: Pair) -> None:
    for method, path in requests.PATHS:
        same(pair, path, None if method in ("GET", "HEAD", "OPTIONS") else "{}", method=method)


def test_an_alarm_is_no_health(pair: Pair) -> None:
    alarm = '{{"action":"{}","memberID":"1","alarm":"NOSPACE"}}'.format
    same(pair, "/v3/maintenance/alarm", alarm("ACTIVATE"))
    unwell = same(pair, "/health", None)
    assert (unwell.status, unwell.json) == (503, {"health": "false", "reason": "ALARM NOSPACE"})
    assert same(pair, "/health?exclude=NOSPACE", None).status == 200
    assert same(pair, "/health?exclude=CORRUPT&exclude=NOSPACE", None).status == 200
    assert same(pair, "/health?exclude=CORRUPT", None).status == 503
    assert same(pair, "/v3/kv/put", '{"key":"YQ=="}').status == 429
    same(pair, "/v3/maintenance/alarm", alarm("DEACTIVATE"))


def test_watches_go_on_after_the_request(pair: Pair) -> None:
    for side in pair.sides:
        stream = HttpStream(address(side), "/v3/watch")
        stream.send('{"create_request":{"key":"dw==","prev_kv":true}} {"create_request":{"watch_id":7,"key":"eA=="}}')
        stream.end()
        assert [stream.next()["result"].get("watch_id") for _ in range(2)] == [None, "7"]
        ask(address(side), "/v3/kv/put", '{"key":"dw==","value":"MQ=="}')
        assert stream.next()["result"]["events"][0]["kv"]["value"] == "MQ=="
        ask(address(side), "/v3/kv/deleterange", '{"key":"dw=="}')
        event = stream.next()["result"]["events"][0]
        assert (event["type"], event["prev_kv"]["value"]) == ("DELETE", "MQ==")
        stream.close()


def test_a_snapshot_in_chunks(pair: Pair) -> None:
    for side in pair.sides:
        chunks = [
            json.loads(line)["result"]
            for line in ask(address(side), "/v3/maintenance/snapshot", "{}").body.splitlines()
        ]
        assert "remaining_bytes" not in chunks[-1] and len(chunks[-1]["blob"]) == 44, "the digest comes last"


def test_tokens_open_what_authentication_closes(pair: Pair) -> None:
    for path, body in (
        ("user/add", '{"name":"root","password":"p"}'),
        ("role/add", '{"name":"root"}'),
        ("user/grant", '{"user":"root","role":"root"}'),
        ("enable", "{}"),
    ):
        assert same(pair, f"/v3/auth/{path}", body).status == 200
    try:
        for body in ('{"name":"root","password":"x"}', '{"name":"x","password":"p"}', "{}"):
            assert same(pair, "/v3/auth/authenticate", body).status == 400
        assert same(pair, "/v3/kv/range", '{"key":"YQ=="}').status == 400
        refused = [ask(address(side), "/v3/maintenance/snapshot", "{}").json["error"] for side in pair.sides]
        assert refused[0].keys() == refused[1].keys() and "user name is empty" in refused[1]["message"]
        assert same(pair, "/v3/lock/lock", '{"name":"YQ=="}').status == 500
        assert same(pair, "/v3/kv/range", '{"key":"YQ=="}', headers={"Authorization": "nonsense.1"}).status == 401
        assert same(pair, "/health", None).status == 200
        for side in pair.sides:
            token = ask(address(side), "/v3/auth/authenticate", '{"name":"root","password":"p"}').json["token"]
            for header in ("Authorization", "Grpc-Metadata-Token"):
                assert ask(address(side), "/v3/kv/range", '{"key":"YQ=="}', headers={header: token}).status == 200
    finally:
        for side in pair.sides:
            token = ask(address(side), "/v3/auth/authenticate", '{"name":"root","password":"p"}').json["token"]
            ask(address(side), "/v3/auth/disable", "{}", headers={"Authorization": token})


# rayplane alone


def test_a_stream_both_ways(own: OwnSide) -> None:
    """etcd reads the whole body of an HTTP/1.1 request before it answers; here a watch may be asked for more."""
    stream = HttpStream(address(own), "/v3/watch")
    # Objects may end anywhere in a chunk.
    stream.send('{"create_request":{"key":"dw==","prev')
    stream.send('_kv":true}} {"create_request":{"watch_id":7,"key":"eA=="}}')
    assert [stream.next()["result"].get("watch_id") for _ in range(2)] == [None, "7"]
    ask(address(own), "/v3/kv/put", '{"key":"dw==","value":"MQ=="}')
    assert stream.next()["result"]["events"][0]["kv"]["value"] == "MQ=="
    stream.send('{"cancel_request":{"watch_id":"7"}}')
    assert stream.next()["result"] | {"header": 0} == {"header": 0, "watch_id": "7", "canceled": True}
    stream.close()


def test_a_stream_with_a_time_limit(own: OwnSide) -> None:
    limit = {"Grpc-Timeout": "300m"}
    error = {"grpc_code": 4, "http_code": 504, "message": "context deadline exceeded", "http_status": "Gateway Timeout"}
    begun = ask(address(own), "/v3/watch", '{"create_request":{"key":"dw=="}}', headers=limit)
    assert begun.status == 200 and json.loads(begun.body.splitlines()[1]) == {"error": error}
    silent = ask(address(own), "/v3/watch", "", headers=limit)
    assert silent.status == 504 and silent.json == {"error": error}
    unheard = ask(address(own), "/v3/election/observe", '{"name":"bm9uZQ=="}', headers=limit)
    assert unheard.status == 504 and unheard.json["code"] == 4


def test_who_leaves_leaves_nothing_behind(own: OwnSide) -> None:
    watching = HttpStream(address(own), "/v3/watch")
    watching.send('{"create_request":{"key":"dw=="}}')
    assert watching.next()["result"]["created"]
    for lease in (31, 32):
        ask(address(own), "/v3/lease/grant", f'{{"ID":{lease},"TTL":600}}')
    assert ask(address(own), "/v3/lock/lock", '{"name":"bA==","lease":31}').status == 200
    waiting = HttpStream(address(own), "/v3/lock/lock")
    waiting.send('{"name":"bA==","lease":32}')
    waiting.end()
    contestants = '{"key":"bC8=","range_end":"bDA=","count_only":true}'
    own.run(_until(lambda: _count(own, b"l/", b"l0") == 2))
    assert ask(address(own), "/v3/kv/range", contestants).json["count"] == "2"
    watching.close()
    waiting.close()
    own.run(_until(lambda: _count(own, b"l/", b"l0") == 1))
    own.run(_until(lambda: own.members[0].watches.counts()[:2] == (0, 0)))
    for lease in (31, 32):
        ask(address(own), "/v3/lease/revoke", f'{{"ID":{lease}}}')


def _count(own: OwnSide, key: bytes, end: bytes) -> int:
    return own.members[0].store.range(key, end, count_only=True).count


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_calls_over_a_websocket(own: OwnSide) -> None:
    base = f"http://{address(own)}/v3/"

    async def talk() -> None:
        async with aiohttp.ClientSession(base) as session:
            async with session.ws_connect("watch") as watch:
                for part in ('{"create_request"', ':{"key":"d3M="}}'):
                    await watch.send_str(part)
                assert (await watch.receive_json(timeout=10))["result"]["created"]
                await session.post("kv/put", data='{"key":"d3M=","value":"MQ=="}')
                event = (await watch.receive_json(timeout=10))["result"]["events"][0]
                assert event["kv"]["value"] == "MQ=="
                assert own.members[0].watches.counts()[:2] == (1, 1)
            await _until(lambda: own.members[0].watches.counts()[:2] == (0, 0))
            async with session.ws_connect("lease/keepalive") as lease:
                for number in (5, 6):
                    await lease.send_str(f'{{"ID":"{number}"}}')
                    assert (await lease.receive_json(timeout=10))["result"]["ID"] == str(number)
            for path, body, error in (("watch", "bad", 2), ("kv/range", "{}", 3)):
                async with session.ws_connect(path) as refused:
                    await refused.send_str(body)
                    assert (await refused.receive_json(timeout=10))["code"] == error
                    assert (await refused.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
            async with session.ws_connect("kv/range", protocols=["Bearer", "token"]) as asked:
                await asked.send_str('{"key":"d3M="}')
                assert (await asked.receive_json(timeout=10)) and asked.protocol == "Bearer"

    own.run(talk())


def test_live_and_ready(own: OwnSide) -> None:
    assert ask(address(own), "/livez").body == "ok\n"
    assert ask(address(own), "/livez?verbose").body == "[+]serializable_read ok\nok\n"
    assert ask(address(own), "/livez/serializable_read").body == "ok\n"
    assert ask(address(own), "/livez/nothing").status == 404
    lines = ask(address(own), "/readyz?verbose&exclude=non_learner").body.splitlines()
    assert lines == ["[+]data_corruption ok", "[+]serializable_read ok", "[+]linearizable_read ok", "ok"]
    alarm = '{{"action":"{}","memberID":"1","alarm":"CORRUPT"}}'.format
    ask(address(own), "/v3/maintenance/alarm", alarm("ACTIVATE"))
    unready = ask(address(own), "/readyz")
    assert unready.status == 503 and unready.body.startswith("[-]data_corruption failed: alarm activated: CORRUPT\n")
    assert ask(address(own), "/livez").status == 200
    ask(address(own), "/v3/maintenance/alarm", alarm("DEACTIVATE"))


def test_a_large_request(own: OwnSide) -> None:
    value = "YWFh" * 600_000
    refused = ask(address(own), "/v3/kv/put", f'{{"key":"YQ==","value":"{value}"}}')
    assert refused.status == 400 and refused.json["error"] == "etcdserver: request is too large"
    value = "YWFh" * 400_000
    assert ask(address(own), "/v3/kv/put", f'{{"key":"YQ==","value":"{value}"}}').status == 200
    assert ask(address(own), "/v3/kv/range", '{"key":"YQ=="}').json["kvs"][0]["value"] == value


# etcd3gw, unmodified


@pytest.fixture
def gw(own: OwnSide) -> Any:
    etcd3gw = pytest.importorskip("etcd3gw")
    host, _, port = address(own).rpartition(":")
    return etcd3gw.client(host=host, port=int(port), timeout=10)


def test_etcd3gw_keys(gw: Any) -> None:
    assert gw.api_path == "/v3/"
    assert gw.put("gw/a", "1") and gw.get("gw/a") == [b"1"]
    assert gw.create("gw/b", "2") and not gw.create("gw/b", "3")
    assert gw.replace("gw/b", "2", "4") and not gw.replace("gw/b", "2", "5")
    assert [value for value, _ in gw.get_prefix("gw/", sort_order="descend")] == [b"4", b"1"]
    assert gw.get("gw/a", metadata=True)[0][1]["version"] == "1"
    assert gw.delete("gw/a") and not gw.delete("gw/a")
    assert gw.delete_prefix("gw/")
    assert gw.status()["version"].startswith("3.5.")
    assert [m["name"] for m in gw.members()] == ["m0"]


def test_etcd3gw_leases_and_locks(gw: Any) -> None:
    lease = gw.lease(ttl=100)
    gw.put("gw/leased", "x", lease=lease)
    assert lease.ttl() in (99, 100) and lease.refresh() == 100
    assert lease.keys() == [b"gw/leased"]
    assert lease.revoke() and gw.get("gw/leased") == []
    first, second = gw.lock(id="gw", ttl=60), gw.lock(id="gw", ttl=60)
    with first:
        assert first.is_acquired() and not second.acquire()
        assert first.refresh() == 60
    assert second.acquire() and second.release()


def test_etcd3gw_watches(gw: Any) -> None:
    events, cancel = gw.watch("gw/w")
    gw.put("gw/w", "1")
    gw.delete("gw/w")
    seen = [next(events) for _ in range(2)]
    cancel()
    assert [event.get("type", "PUT") for event in seen] == ["PUT", "DELETE"]
    assert seen[0]["kv"]["value"] == b"1"


# The JSON itself

_BYTES, _I64, _BOOL = st.binary(max_size=8), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans()
_RANGES = st.builds(
    pb.RangeRequest,
    key=_BYTES,
    range_end=_BYTES,
    limit=_I64,
    sort_order=st.sampled_from([0, 1, 2]),
    sort_target=st.sampled_from([0, 1, 2, 3, 4]),
    serializable=_BOOL,
    max_mod_revision=_I64,
)
_OPS = st.one_of(
    st.builds(lambda r: pb.RequestOp(request_range=r), _RANGES),
    st.builds(lambda k, v: pb.RequestOp(request_put=pb.PutRequest(key=k, value=v)), _BYTES, _BYTES),
)
_TXNS = st.builds(
    pb.TxnRequest,
    compare=st.lists(st.builds(pb.Compare, key=_BYTES, result=st.sampled_from([0, 1, 2, 3]), lease=_I64), max_size=2),
    success=st.lists(_OPS, max_size=3),
    failure=st.lists(
        st.builds(lambda s: pb.RequestOp(request_txn=pb.TxnRequest(success=s)), st.lists(_OPS)), max_size=2
    ),
)
_MEMBERS = st.builds(
    pb.MemberListResponse,
    members=st.lists(
        st.builds(
            pb.Member,
            ID=st.integers(0, (1 << 64) - 1),
            name=st.text(max_size=5),
            peerURLs=st.lists(st.text(max_size=3)),
        )
    ),
)


@given(message=st.one_of(_TXNS, _MEMBERS))
def test_messages_survive_the_way_there_and_back(message: Any) -> None:
    text = dump(as_object(message)).decode()
    assert not set(text) & set("<>&\u2028\u2029")
    value, end = first_value(text)
    back = type(message)()
    fill(back, value)
    assert back == message and end == len(text)
    # And the standard library reads the same.
    assert json_format.Parse(text, type(message)()) == message


@given(st.text(alphabet='{}[]",:\\ue1-+.0tfn rals\n', max_size=12))
def test_texts_are_read_as_the_standard_library_reads_them(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    except ValueError:
        with pytest.raises(JsonError) as refused:
            only_value(text)
        assert str(refused.value) != "invalid JSON", "every error has a text"
    else:
        assert _numbers(only_value(text)) == _numbers(expected)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and type(value) is not str:
        value = float(value)
    return float(value) if type(value) in (int, float) and math.isfinite(value) else value
