"""The ingress's traffic on loopback: certificates, redirects, annotations, and requests that it refuses."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import aiohttp
import grpc
import grpc.aio
import httpx
import pytest
from aiohttp import web
from cryptography import x509

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import Informer
from rayplane.control_plane.cluster.ports import can_bind
from rayplane.control_plane.rpc.tls import Authority
from rayplane.node.ingress.ingress import Ingress, IngressAddresses
from rayplane.node.kubelet.referenced_objects import ReferencedObjects
from rayplane.node.proxy.rules import Endpoint
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from tests.fakes import FakeClient
from tests.node.test_ingress import ingress
from tests.node.test_proxy import service
from tests.ports import free_port

INGRESSES = "ingresses.networking.k8s.io"
AUTHORITY = Authority.create("shop")
NGINX = "nginx.ingress.kubernetes.io/"


class Backends:
    """One endpoint behind every service."""

    def __init__(self) -> None:
        self.port, self.is_near = 0, True

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]:
        return (Endpoint("127.0.0.1", self.port),)

    def network_of(self, endpoint: Endpoint) -> PodNetwork | None:
        return DIRECT if self.is_near else None


class Events:
    """What was told of objects."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        self.told.append(f"{reason} {message}")


class Front:
    """An ingress, and the server behind it."""

    def __init__(self, api: FakeClient, http: str, https: str) -> None:
        self.api, self.http, self.https = api, http, https
        self.backends, self.events = Backends(), Events()
        self.seen: list[str] = []
        self.ingress: Ingress | None = None
        self.make: Callable[[IngressAddresses], Ingress]

    def ingress_at(self, services: Informer, objects: ReferencedObjects, addresses: IngressAddresses) -> Ingress:
        return Ingress(addresses, self.api, services, self.backends, objects, self.events)  # type: ignore[arg-type]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.raw_path}")
        if request.path == "/large":
            return web.Response(body=b"x" * 5_000_000)
        if request.path == "/slow":
            await asyncio.sleep(1000)
        if request.path.endswith("/ws"):
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(f"{request.headers['X-Forwarded-Proto']} {message.data}")
            return ws
        body = await request.read()
        text = f"{request.scheme} {request.raw_path} {request.headers['X-Forwarded-Proto']} {len(body)}"
        return web.Response(text=text)

    def put(self, name: str, *rules: tuple[str, str, str, str], **fields: Any) -> None:
        made = ingress(name, *rules, **{k: v for k, v in fields.items() if k not in ("notes", "tls")})
        made["metadata"]["annotations"] = {NGINX + k: v for k, v in fields.get("notes", {}).items()}
        made["spec"]["tls"] = fields.get("tls", [])
        self.api.put(INGRESSES, made)

    async def ask(self, host: str, path: str, *, tls: bool = False, **options: Any) -> tuple[int, str]:
        scheme, address = ("https", self.https) if tls else ("http", self.http)
        async with (
            aiohttp.ClientSession() as client,
            client.request(
                options.pop("method", "GET"),
                aiohttp.client.URL(f"{scheme}://{address}{path}", encoded=True),
                headers={"Host": host},
                ssl=False,
                allow_redirects=False,
                **options,
            ) as answer,
        ):
            return answer.status, answer.headers.get("Location") or await answer.text()

    async def shown(self, name: str | None) -> str:
        """The common name of the certificate that is shown to who asks for `name`."""
        host, _, port = self.https.rpartition(":")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name or "")
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return str(names[0].value)


def secret(name: str, shown: str, namespace: str = "default", **fields: Any) -> Object:
    made = AUTHORITY.issue(shown, [], hosts=[shown] if "." in shown else [])
    data = {"tls.crt": base64.b64encode(made.cert).decode(), "tls.key": base64.b64encode(made.key).decode()}
    metadata = {"name": name, "namespace": namespace}
    return {"kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data, **fields}


@pytest.fixture
async def front(api: FakeClient) -> AsyncIterator[Front]:
    made = Front(api, f"127.98.0.2:{free_port()}", f"127.98.0.2:{free_port()}")
    async with contextlib.AsyncExitStack() as stack:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", made.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.backends.port = runner.addresses[0][1]
        api.put("services", service())
        services = Informer(api, "services")  # type: ignore[arg-type]
        services.start()
        stack.push_async_callback(services.stop)
        await services.synced()
        objects = ReferencedObjects(api)  # type: ignore[arg-type]
        stack.push_async_callback(objects.stop)
        made.make = partial(made.ingress_at, services, objects)
        made.ingress = made.make(IngressAddresses(made.http, made.https))
        stack.push_async_callback(made.ingress.stop)
        await made.ingress.start()
        yield made


async def until(condition: Any) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


async def test_requests_to_a_headless_service_on_other_machines_are_refused(front: Front, api: FakeClient) -> None:
    front.backends.is_near = False
    api.put("services", service(clusterIP="None"))
    front.put("i", ("shop.local", "/", "Prefix", "web"))
    told = 404, ""

    async def is_known() -> bool:
        nonlocal told
        told = await front.ask("shop.local", "/")
        return told[0] != 404 and "cannot connect to 127" not in told[1]

    await until(is_known)
    why = "has no ready endpoint on this machine, and no cluster IP that leads to others: give it one"
    assert told == (503, f"service default/web {why}\n")


# --- TLS ------------------------------------------------------------------------------------------


async def test_each_host_has_its_certificate_and_others_the_default(front: Front, api: FakeClient) -> None:
    assert await front.shown("shop.local") == await front.shown(None) == "Rayplane Ingress Default Certificate"
    api.put("secrets", secret("shop", "of the shop"))
    api.put("secrets", secret("wild", "of all"))
    rule = ("shop.local", "/", "Prefix", "web")
    front.put("i", rule, tls=[{"secretName": "shop"}, {"secretName": "wild", "hosts": ["*.local"]}])

    async def shows(name: str | None, wanted: str) -> None:
        async def there() -> bool:
            return await front.shown(name) == wanted

        await until(there)

    await shows("shop.local", "of the shop")
    await shows("other.local", "of all")
    assert await front.shown("a.other.local") == "Rayplane Ingress Default Certificate"
    # They follow their Secrets, without a connection that breaks.
    api.put("secrets", secret("shop", "of the shop, renewed"))
    await shows("shop.local", "of the shop, renewed")
    api.put("secrets", secret("rayplane-ingress-tls", "for everybody", "kube-system"))
    await shows("a.other.local", "for everybody")
    # What is no certificate is told, and the host has none.
    api.put("secrets", secret("shop", "x", data={"tls.crt": "eA==", "tls.key": "eA=="}))
    await shows("shop.local", "of all")
    await api.until(lambda: any(one.startswith("BadCertificate secret default/shop") for one in front.events.told))
    api.remove(INGRESSES, "default/i")
    await shows("shop.local", "for everybody")


async def test_requests_over_tls_are_served_and_others_sent_there(front: Front, api: FakeClient) -> None:
    api.put("secrets", secret("shop", "of the shop"))
    front.put("i", ("shop.local", "/", "Prefix", "web"), tls=[{"secretName": "shop"}])

    async def sends() -> bool:
        return (await front.ask("shop.local", "/a?b=%20"))[0] == 308

    await until(sends)
    port = front.https.rpartition(":")[2]
    assert await front.ask("shop.local", "/a?b=%20") == (308, f"https://shop.local:{port}/a?b=%20")
    assert await front.ask("shop.local", "/a?b=%20", tls=True) == (200, "http /a?b=%20 https 0")
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"wss://{front.https}/ws", headers={"Host": "shop.local"}, ssl=False) as ws,
    ):
        await ws.send_str("hi")
        assert await ws.receive_str() == "https hi"
    front.put("i", ("shop.local", "/", "Prefix", "web"), tls=[{"secretName": "shop"}], notes={"ssl-redirect": "false"})

    async def serves() -> bool:
        return (await front.ask("shop.local", "/"))[0] == 200

    await until(serves)
    front.put("j", ("free.local", "/", "Prefix", "web"), notes={"force-ssl-redirect": "true"})

    async def forces() -> bool:
        return await front.ask("free.local", "/") == (308, f"https://free.local:{port}/")

    await until(forces)


# --- beginning and end ----------------------------------------------------------------------------


async def test_an_ingress_whose_start_is_cancelled_at_any_turn_gives_its_ports_back(front: Front) -> None:
    host, ports = "127.98.0.3", (free_port(), free_port())
    for turns in range(1000):
        made = front.make(IngressAddresses(*(f"{host}:{port}" for port in ports)))
        starting = asyncio.ensure_future(made.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        is_up = starting.done()
        starting.cancel()
        await asyncio.wait([starting])
        await made.stop()
        assert all(can_bind(host, port) for port in ports), f"one is still open after {turns} turns"
        if is_up:
            break


async def test_who_waits_for_an_answer_does_not_keep_an_ingress_from_its_end(front: Front) -> None:
    front.put("i", ("h", "/", "Prefix", "web"))

    async def serves() -> bool:
        return (await front.ask("h", "/"))[0] == 200

    await until(serves)
    asking = asyncio.ensure_future(front.ask("h", "/slow"))
    await front.api.until(lambda: "GET /slow" in front.seen)
    assert front.ingress is not None
    async with asyncio.timeout(45):
        await front.ingress.stop()
    with pytest.raises(aiohttp.ClientError):
        await asking


# --- annotations ----------------------------------------------------------------------------------


async def test_paths_are_rewritten(front: Front) -> None:
    front.put(
        "i",
        ("h", "/api(/|$)(.*)", "ImplementationSpecific", "web"),
        notes={"use-regex": "true", "rewrite-target": "/v1/$2"},
    )
    front.put("j", ("h", "/old", "Prefix", "web"), notes={"rewrite-target": "/new"})

    async def serves() -> bool:
        return (await front.ask("h", "/old"))[0] == 200

    await until(serves)
    assert await front.ask("h", "/api/a%20b?q=1") == (200, "http /v1/a%20b?q=1 http 0")
    assert await front.ask("h", "/API") == (200, "http /v1/ http 0")
    assert await front.ask("h", "/old/x?y") == (200, "http /new?y http 0")
    assert (await front.ask("h", "/apix"))[0] == 404


async def test_bodies_are_bounded_and_silence_is(front: Front) -> None:
    notes = {"proxy-body-size": "1k", "proxy-read-timeout": "1"}
    front.put("i", ("h", "/", "Prefix", "web"), notes=notes)

    async def serves() -> bool:
        return (await front.ask("h", "/", method="POST", data=b"x" * 1024))[0] == 200

    await until(serves)
    assert (await front.ask("h", "/", method="POST", data=b"x" * 1025))[0] == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    assert (await front.ask("h", "/", method="POST", data=pieces()))[0] == 413
    assert (await front.ask("h", "/slow"))[0] == 504


async def test_what_is_no_service_is_not_served(front: Front) -> None:
    made = ingress("i", ("h", "/", "Prefix", "web"))
    made["spec"]["rules"][0]["http"]["paths"][0]["backend"] = {"resource": {"kind": "Bucket", "name": "b"}}
    front.api.put(INGRESSES, made)

    async def refuses() -> bool:
        return (await front.ask("h", "/"))[0] == 503

    await until(refuses)


# --- requests that are refused --------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
HOSTILE = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "signed length": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +4\r\n\r\nabcd",
    "odd coding": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "blank before colon": b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n",
    "host that is none": b"GET / HTTP/1.1\r\nHost: h/..\r\n\r\n",
    "absolute target": b"GET http://g/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "tunnel": b"CONNECT g:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "dots": b"GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n",
    "encoded dots": b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: h\r\n\r\n",
    "line end in the path": b"GET /a%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
    "a large head": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 300 + b"\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_requests_reach_nobody(name: str, front: Front) -> None:
    front.put("i", ("", "/", "Prefix", "web"))

    async def serves() -> bool:
        return (await front.ask("h", "/first"))[0] == 200

    await until(serves)
    front.seen.clear()
    host, _, port = front.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HOSTILE[name])
    status = await reader.readline()
    assert status[9:10] == b"4", status
    writer.close()
    assert [one for one in front.seen if not one.startswith("POST /")] == []
    assert name == "bad chunk" or front.seen == []


# --- HTTP/2 ---------------------------------------------------------------------------------------


async def test_http2_is_spoken_in_front(front: Front) -> None:
    notes = {"proxy-body-size": "2m", "ssl-redirect": "false", "proxy-read-timeout": "1"}
    front.put("i", ("", "/", "Prefix", "web"), notes=notes)

    async def serves() -> bool:
        return (await front.ask("h", "/"))[0] == 200

    await until(serves)

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100_000

    url = f"https://{front.https}"
    async with httpx.AsyncClient(http2=True, verify=False, headers={"Host": "h"}, trust_env=False) as client:
        answer = await client.get(f"{url}/a?b=%20")
        assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "http /a?b=%20 https 0")
        answers = await asyncio.gather(*(client.post(f"{url}/{n}", content=b"x" * n) for n in range(50)))
        assert [one.text for one in answers] == [f"http /{n} https {n}" for n in range(50)]
        assert (await client.post(f"{url}/up", content=pieces(20))).text == "http /up https 2000000"
        assert (await client.post(f"{url}/up", content=pieces(22))).status_code == 413
        assert (await client.post(f"{url}/up", content=b"x" * (2 << 20) + b"x")).status_code == 413
        assert len((await client.get(f"{url}/large")).content) == 5_000_000
        assert (await client.get(f"{url}/slow")).status_code == 504
        # httpx takes dots out of a path, but not encoded ones.
        assert (await client.get(f"{url}/a/%2e%2e/b")).status_code == 400
        assert (await client.request("HEAD", f"{url}/a")).status_code == 200
    front.backends.port = 1
    async with httpx.AsyncClient(http2=True, verify=False, trust_env=False) as client:
        assert (await client.get(f"{url}/a")).status_code == 502


async def test_a_client_of_http2_that_leaves_ends_its_requests(front: Front) -> None:
    front.put("i", ("", "/", "Prefix", "web"), notes={"ssl-redirect": "false"})

    async def serves() -> bool:
        return (await front.ask("h", "/"))[0] == 200

    await until(serves)
    client = httpx.AsyncClient(http2=True, verify=False, trust_env=False)
    asking = asyncio.ensure_future(client.get(f"https://{front.https}/slow"))
    await front.api.until(lambda: "GET /slow" in front.seen)
    asking.cancel()
    await asyncio.wait([asking])
    await client.aclose()
    await front.api.until(lambda: front.ingress is not None and not front.ingress._fronts)


# --- gRPC -----------------------------------------------------------------------------------------


class Echo(grpc.GenericRpcHandler):
    """A service without descriptions: it says what it is told, once, as often as it is told, or not at all."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def once(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            context.set_trailing_metadata((("x-end", "yes"),))
            return dict(context.invocation_metadata())["x-mine"].encode() + request

        async def each(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.upper()

        async def never(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
            return b""

        methods = {
            "/e/Once": grpc.unary_unary_rpc_method_handler(once),
            "/e/Each": grpc.stream_stream_rpc_method_handler(each),
            "/e/Never": grpc.unary_unary_rpc_method_handler(never),
        }
        return methods.get(details.method)


async def test_calls_of_grpc_are_carried_with_their_trailers(front: Front, api: FakeClient) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    front.backends.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    api.put("secrets", secret("calls", "calls.local"))
    rule = ("calls.local", "/", "Prefix", "web")
    front.put("i", rule, tls=[{"secretName": "calls"}], notes={"backend-protocol": "GRPC", "ssl-redirect": "false"})

    async def ready() -> bool:
        return await front.shown("calls.local") == "calls.local"

    await until(ready)
    options = (("grpc.ssl_target_name_override", "calls.local"),)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.issue("x", []).ca)
    async with grpc.aio.secure_channel(front.https, credentials, options=options) as channel:
        call = channel.unary_unary("/e/Once")(b"!" * 200_000, metadata=(("x-mine", "hello"),))
        assert await call == b"hello" + b"!" * 200_000
        assert ("x-end", "yes") in tuple(await call.trailing_metadata())
        stream = channel.stream_stream("/e/Each")()
        for word in (b"a", b"b"):
            await stream.write(word)
            assert await stream.read() == word.upper()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/e/Never")(b"")
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/e/Unknown")(b"")
        assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await server.stop(None)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/e/Once")(b"", metadata=(("x-mine", "hello"),))
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (await front.ask("calls.local", "/e/Once"))[0] == 505
