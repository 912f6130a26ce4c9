"""What pods show to say who they are: keys that somebody has certified, and whom to trust, as files of volumes."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.certificates.pem import decoded, stub_problem
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import MountError
from rayplane.node.kubelet.pod_certificates import REQUESTS, key_and_stub
from rayplane.node.volumes.projected import BUNDLES, volume_files
from tests.api.pems import AUTHORITY
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, phase, run_in, shell, state

WANTED = {"signerName": "example.com/mesh", "keyType": "ED25519", "credentialBundlePath": "all.pem", "keyPath": "key"}
POINT = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certified(name: str, **source: Any) -> Object:
    """A pod that shows a key of its own to itself."""
    volume = {"name": "own", "projected": {"sources": [{"podCertificate": {**WANTED, **source}}]}}
    mounts = {"volumeMounts": [{"name": "own", "mountPath": "/own"}]}
    return shell(name, "exec sleep 1000", container=mounts, volumes=[volume], serviceAccountName="default")


def issue(api: FakeClient, request: Object, *, good_s: float = 7200.0, renewed_s: float = 3600.0) -> None:
    """What a signer does."""
    issuer, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC).replace(microsecond=0)
    shown = x509.load_der_x509_csr(decoded(request["spec"]["stubPKCS10Request"]))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, request["spec"]["podName"])])
    ends = now + timedelta(seconds=good_s)
    leaf = x509.CertificateBuilder(name, name, shown.public_key(), 1, now - timedelta(hours=1), ends)
    chain = "words of the signer\n" + leaf.sign(issuer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    times = {"notAfter": ends, "beginRefreshAt": now + timedelta(seconds=renewed_s)}
    status = {"certificateChain": chain, **{field: f"{at:%Y-%m-%dT%H:%M:%SZ}" for field, at in times.items()}}
    decide(api, request, "Issued", **status)


def decide(api: FakeClient, request: Object, end: str, **status: Any) -> None:
    condition = {"type": end, "status": "True", "reason": "Because", "message": "so it is"}
    api.put(REQUESTS, {**request, "status": {**status, "conditions": [condition]}})


async def asked(api: FakeClient, count: int = 1) -> Object:
    """The last of so many requests."""
    await api.until(lambda: len(api.objects.get(REQUESTS, {})) == count)
    return list(api.objects[REQUESTS].values())[-1]


@pytest.fixture(autouse=True)
def account(api: FakeClient) -> None:
    api.put("serviceaccounts", {"metadata": {"name": "default", "namespace": "default", "uid": "uid-account"}})


@pytest.mark.processes
async def test_a_pod_has_its_key_and_certificate_when_the_signer_has_issued_it(
    api: FakeClient, make_host: MakeHost
) -> None:
    host = await make_host(NODE, timing=QUICK)
    api.put("pods", certified("web", userAnnotations={"example.com/a": "b"}, maxExpirationSeconds=7200))
    request = await asked(api)
    spec = request["spec"]
    assert (spec["podName"], spec["podUID"], spec["nodeName"]) == ("web", "uid-web", "n1")
    assert (spec["serviceAccountName"], spec["serviceAccountUID"]) == ("default", "uid-account")
    assert spec["nodeUID"] == meta.uid(api.objects["nodes"]["n1"])
    assert (spec["signerName"], spec["maxExpirationSeconds"]) == ("example.com/mesh", 7200)
    assert spec["unverifiedUserAnnotations"] == {"example.com/a": "b"}
    assert "running" not in state(api, "web"), "without its certificate it does not begin"
    issue(api, request)
    await api.until(lambda: "running" in state(api, "web"))
    key, whole = [(await run_in(host, "web", "cat", f"own/{f}"))[0] for f in ("key", "all.pem")]
    chain = x509.load_pem_x509_certificates(whole)
    assert whole.startswith(key) and b"words" not in whole
    mine = load_pem_private_key(key, None).public_key().public_bytes(*POINT)
    assert [one.public_key().public_bytes(*POINT) for one in chain] == [mine]
    assert len(api.objects[REQUESTS]) == 1


@pytest.mark.processes
@pytest.mark.parametrize("end", ["Denied", "Failed"])
async def test_what_the_signer_refuses_is_said_and_not_asked_again(
    api: FakeClient, make_host: MakeHost, end: str
) -> None:
    await make_host(NODE, timing=QUICK)
    api.put("pods", certified("web"))
    decide(api, await asked(api), end)
    said = f'permanently {end.lower()}: reason="Because" message="so it is"'
    await api.until(lambda: any(said in text for text in api.events("FailedMount")))
    assert phase(api, "web") == "Pending" and len(api.objects[REQUESTS]) == 1


@pytest.mark.processes
async def test_a_certificate_is_renewed_with_another_key(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.node.kubelet.pod_certificates.JITTER_S", 0.0)
    monkeypatch.setattr("rayplane.node.kubelet.sandbox.JITTER_S", 0.0)
    host = await make_host(NODE, timing=QUICK)
    api.put("pods", certified("web"))
    issue(api, await asked(api), renewed_s=0.0)
    await api.until(lambda: "running" in state(api, "web"))
    first = (await run_in(host, "web", "cat", "own/key"))[0]
    issue(api, await asked(api, 2))
    async with asyncio.timeout(60):
        while (await run_in(host, "web", "cat", "own/key"))[0] == first:
            await asyncio.sleep(0.01)
    assert (await asked(api, 2))["metadata"]["name"] != "req-00001"


@pytest.mark.parametrize("kind", ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"])
def test_each_kind_of_key_is_made_and_shown(kind: str) -> None:
    private, stub = key_and_stub(kind)
    assert stub_problem(stub) == "" and load_pem_private_key(private, None) is not None


def test_no_other_key_is_made() -> None:
    with pytest.raises(MountError, match="unknown key type 'DSA'"):
        key_and_stub("DSA")


# --- whom to trust --------------------------------------------------------------------------------


def bundle(name: str, text: str = AUTHORITY, signer: str = "", **labels: str) -> Object:
    spec = {"trustBundle": text, **({"signerName": signer} if signer else {})}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


MESH = "example.com/mesh"
BUNDLED = [
    bundle("plain", f"# mine\n{AUTHORITY}{AUTHORITY}"),
    bundle("example.com:mesh:a", AUTHORITY, MESH, live="yes"),
]


def shown(**source: Any) -> bytes:
    volume = {"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "ca.pem", **source}}]}}
    found: Any = {(BUNDLES, ""): {"items": BUNDLED}}
    facts: Any = None
    return volume_files(volume, make_pod("p"), facts, found=found, tokens={})["ca.pem"].data


@pytest.mark.parametrize(
    "source",
    [
        {"name": "plain"},
        {"signerName": MESH, "labelSelector": {}},
        {"signerName": MESH, "labelSelector": {"matchLabels": {"live": "yes"}}},
    ],
)
def test_each_certificate_of_the_chosen_bundles_is_shown_once(source: dict[str, Any]) -> None:
    assert shown(**source).decode() == AUTHORITY


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"name": "none"}, 'clustertrustbundle "none" not found'),
        ({"signerName": MESH}, "matched zero ClusterTrustBundles"),
        ({"signerName": MESH, "labelSelector": {"matchLabels": {"live": "no"}}}, "matched zero ClusterTrustBundles"),
        ({"signerName": "example.com/other", "labelSelector": {}}, "matched zero ClusterTrustBundles"),
    ],
)
def test_what_is_not_there_is_said_unless_it_is_optional(source: dict[str, Any], why: str) -> None:
    with pytest.raises(MountError, match=why):
        shown(**source)
    assert shown(**source, optional=True) == b""


@pytest.mark.processes
async def test_a_pod_sees_whom_to_trust_also_when_that_changes(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    volume = {"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"name": "plain", "path": "ca.pem"}}]}}
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    api.put("pods", shell("web", "exec sleep 1000", container=mounts, volumes=[volume]))
    await api.until(lambda: any('"plain" not found' in text for text in api.events("FailedMount")))
    api.put(BUNDLES, bundle("plain"))
    await api.until(lambda: "running" in state(api, "web"))
    assert (await run_in(host, "web", "cat", "v/ca.pem"))[0].decode() == AUTHORITY
    api.put(BUNDLES, bundle("plain", ""))
    async with asyncio.timeout(60):
        while (await run_in(host, "web", "cat", "v/ca.pem"))[0]:
            await asyncio.sleep(0.01)
