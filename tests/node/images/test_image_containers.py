"""Isolated containers that run from images: their root, their words, their user; and what stands in for images."""

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.node.host import NodeHost
from rayplane.node.images.containers import SIMULATED_ID
from rayplane.node.images.file_capabilities import RECORD, record
from rayplane.node.kubelet.image_manager import NOT_PRESENT
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.images.tars import DIRECTORY, SYMLINK, entry, kept, tar
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, logs, phase, run_in, shell, state

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
TOOLS = ("sh", "cat", "ls", "id", "env", "sleep", "touch", "readlink", "stat", "rm")


def needed(program: str) -> set[str]:
    """Paths of a program of this machine and of the libraries that it loads."""
    path = shutil.which(program)
    assert path is not None
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return {path} | {word for word in said.split() if word.startswith("/")}


def tools() -> bytes:
    """A layer with a few programs of this machine, found by the paths that they have here."""
    files = sorted({file for program in TOOLS for file in needed(program)})
    above = sorted({str(parent)[1:] for file in files for parent in Path(file).parents if str(parent) != "/"})
    found = [entry(name, DIRECTORY) for name in above]
    found += [entry(file[1:], data=Path(file).read_bytes(), mode=0o755) for file in files]
    found += [entry("etc", DIRECTORY), entry("etc/passwd", data=b"root:x:0:0::/root:\nweb:x:7:8::/srv:\n")]
    return tar(
        [*found, entry("etc/group", data=b"web:x:8:\nmore:x:9:web,other\n"), entry("tmp", DIRECTORY, mode=0o1777)]
    )


def reader(capabilities: bytes) -> Any:
    """A `cat` with capabilities, as an entry of a layer."""
    header, data = entry("raw", data=Path(shutil.which("cat") or "").read_bytes(), mode=0o755)
    header.pax_headers = {RECORD: record(capabilities)}
    return header, data


def image(host: NodeHost, name: str, *layers: bytes, **config: Any) -> Any:
    assert host.images is not None
    return kept(host.images.store, name, [tools(), *layers], **config)


def of(name: str, said: str, **container: Any) -> Object:
    spec = {"restartPolicy": "Never", **container.pop("spec", {})}
    return make_pod(name, container={"image": said, **container}, **spec)


async def ended(api: FakeClient, host: NodeHost, pod: Object) -> str:
    name = pod["metadata"]["name"]
    api.put("pods", pod)
    await api.until(lambda: phase(api, name) in ("Succeeded", "Failed"))
    return (await logs(host, name)).decode()


async def test_a_container_runs_in_its_images_root_as_the_image_says(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    over = tar([entry("srv/page", data=b"page\n"), entry("opt/gone", data=b"x")])
    config = {
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["ls /; cat page; env"],
        "WorkingDir": "/srv",
        "Env": ["A=1", "B=$(A)"],
    }
    stored = image(host, "shop:1", over, tar([entry("opt/.wh.gone")]), **config, Volumes={"/data/a": {}})
    said = (await ended(api, host, of("one", "shop:1", env=[{"name": "C", "value": "3"}]))).split()
    assert [word for word in said if word in ("opt", "home", "root", "nix", "page")] == ["opt", "page"]
    assert {"A=1", "B=$(A)", "C=3", "HOME=/root", "data"} <= {*said}
    assert await ended(
        api, host, of("two", "shop:1", args=["echo $(C)$$HOME; ls -A /data /opt"], env=[{"name": "C", "value": "3"}])
    ) == ("3/root\n/data:\na\n\n/opt:\n")
    assert await ended(api, host, of("three", "shop:1", command=["cat", "page"])) == "page\n"
    status = api.pod("three")["status"]["containerStatuses"][0]
    assert (status["image"], status["imageID"]) == ("docker.io/library/shop:1", stored.config)
    await api.until(
        lambda: (
            'Container image "shop:1" already present on machine and can be accessed by the pod' in api.events("Pulled")
        )
    )


async def test_what_a_container_writes_is_its_own_above_layers_that_all_share(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    image(host, "shop:1", Cmd=["sh", "-c", f"echo mine >/etc/passwd; touch /new; {SLEEP}"])
    for name in ("one", "two"):
        api.put("pods", of(name, "shop:1"))
        await api.until(lambda name=name: "running" in state(api, name))
    assert host.images is not None
    layers = host.images.store.root / "layers"
    assert len(os.listdir(layers)) == 1
    (layer,) = layers.iterdir()
    assert not (layer / "fs" / "new").exists() and b"web" in (layer / "fs/etc/passwd").read_bytes()
    while (await run_in(host, "one", "cat", "/new"))[2]:
        pass
    await run_in(host, "one", "touch", "/only")
    assert (await run_in(host, "two", "ls", "/only"))[2] != 0


@pytest.mark.parametrize(
    ("user", "context", "said"),
    [
        ("web", {}, "7 8 8 9 /srv"),
        ("web:9", {}, "7 9 9 /srv"),
        ("12", {}, "12 0 0 /"),
        ("web", {"runAsUser": 12, "runAsGroup": 13}, "12 13 13 /"),
        ("12", {"runAsUser": 7}, "7 8 8 9 /srv"),
    ],
)
async def test_it_runs_as_its_images_user(
    api: FakeClient, make_isolating: Isolating, user: str, context: dict[str, Any], said: str
) -> None:
    host = await make_isolating(NODE)
    image(host, "shop:1", User=user, Cmd=["sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"])
    if os.geteuid() != 0:
        said = said.replace(" 9 /", " /") if said.count(" ") == 4 else said  # who has one group has no more
    assert (await ended(api, host, of("one", "shop:1", securityContext=context))).strip() == said


async def test_a_program_has_the_capabilities_that_its_image_gives_it(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    image(
        host,
        "shop:1",
        tar([reader(struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))]),
        User="7",
        Cmd=["/raw", "/proc/self/status"],
    )
    without = {"allowPrivilegeEscalation": False}
    for name, context, effective in (("one", {}, 1 << 13), ("two", without, 0)):
        said = await ended(api, host, of(name, "shop:1", securityContext=context))
        (line,) = (line for line in said.splitlines() if line.startswith("CapEff:"))
        assert int(line.split()[1], 16) == (effective if os.geteuid() == 0 else 0)


async def test_an_image_whose_links_lead_out_has_a_root_of_its_own_all_the_same(
    api: FakeClient, make_isolating: Isolating, tmp_path: Path
) -> None:
    host = await make_isolating(NODE)
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o751)
    links = {"proc": outside, "dev": "../../../../../../tmp", "sys": "/", "etc/hosts": outside / "hosts", "w": outside}
    odd = tar(entry(name, SYMLINK, linkname=str(to)) for name, to in links.items())
    image(host, "odd", odd, WorkingDir="/w/x/../y", Volumes={"/w/z": {}, "../../a": {}})
    said = await ended(
        api, host, of("one", "odd", command=["sh", "-c", "echo made >/w/here; ls -d /proc/self /dev/null"])
    )
    assert said == "/dev/null\n/proc/self\n"
    assert os.listdir(outside) == [] and outside.stat().st_mode & 0o777 == 0o751


async def test_an_image_that_is_not_there_is_stood_for_by_this_machine(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("one", "ls -d /usr", restartPolicy="Never"))
    await api.until(lambda: phase(api, "one") == "Succeeded")
    assert await logs(host, "one") == b"/usr\n"
    await api.until(lambda: any("programs of this machine stand for it" in text for text in api.events("Pulled")))
    assert not api.events(NOT_PRESENT)


async def test_a_container_that_is_data_since_its_image_is_nowhere_says_so(
    api: FakeClient, make_isolating: Isolating
) -> None:
    await make_isolating(NODE)
    api.put("pods", make_pod("one", container={"image": "nginx:1"}))
    await api.until(lambda: "running" in state(api, "one"))
    await api.until(lambda: api.events(NOT_PRESENT))
    (text,) = api.events(NOT_PRESENT)
    assert 'image "nginx:1" is not present' in text and "runs no program" in text and "image load" in text
    assert api.pod("one")["status"]["containerStatuses"][0]["imageID"].startswith(SIMULATED_ID)
    assert not any("already present" in text for text in api.events("Pulled"))


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "Bad/Name"}, "InvalidImageName"),
        ({"image": "nowhere", "imagePullPolicy": "Never", "command": ["true"]}, "ErrImageNeverPull"),
    ],
)
async def test_a_container_whose_image_cannot_be_had_says_why(
    api: FakeClient, make_isolating: Isolating, container: dict[str, Any], reason: str
) -> None:
    await make_isolating(NODE)
    api.put("pods", make_pod("one", container=container))
    await api.until(lambda: (state(api, "one").get("waiting") or {}).get("reason") == reason)
    await api.until(lambda: f"Error: {reason}" in api.events("Failed"))


async def test_a_program_stands_for_an_image(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    assert host.images is not None
    host.images.store.map_program("shop*", ["echo", "for"])
    assert await ended(api, host, of("one", "shop:7", args=["it"])) == "for it\n"
    assert api.pod("one")["status"]["containerStatuses"][0]["imageID"].startswith("program@sha256:")


async def test_an_image_is_a_volume_that_is_read_only(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    assert host.images is not None
    layers = [tar([entry("page", data=b"old"), entry("sub/a", data=b"a\n")]), tar([entry("page", data=b"new\n")])]
    for name, count in (("one", 1), ("two", 2)):
        kept(host.images.store, name, layers[-count:])
    mounts = [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/s", "subPath": "sub"}]
    script = "cat /v/page; ls /s; touch /v/x 2>/dev/null || echo refused"
    pod = make_pod(
        "reader",
        container={"command": ["sh", "-c", script], "volumeMounts": mounts},
        volumes=[{"name": "v", "image": {"reference": "two"}}],
        restartPolicy="Never",
    )
    said = await ended(api, host, pod)
    assert said.startswith("new\na\n") and said.endswith("refused\n")
    single = shell(
        "single",
        "cat /v/page; touch /v/x 2>/dev/null || echo refused",
        volumes=[{"name": "v", "image": {"reference": "one"}}],
        restartPolicy="Never",
    )
    single["spec"]["containers"][0]["volumeMounts"] = mounts[:1]
    said = await ended(api, host, single)
    assert said.startswith("new\n") and said.endswith("refused\n")
    lost = shell("lost", "true", volumes=[{"name": "v", "image": {"reference": "one"}}], restartPolicy="Never")
    lost["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v", "subPath": "none"}]
    api.put("pods", lost)
    await api.until(lambda: phase(api, "lost") == "Failed")
    (image,) = (one for one in host.images.store.catalog().images.values() if one.names[0].endswith("one:latest"))
    assert os.listdir(host.images.store.ready(image).layers[0]) == ["page"]
    # A pod that uses it keeps it: even where no container runs from it.
    (used,) = (one for one in host.images.store.catalog().images.values() if one.names[0].endswith("two:latest"))
    await api.until(lambda: not host.images.store.is_used(used))  # type: ignore[union-attr]


async def test_a_volume_of_an_image_that_is_not_there_keeps_its_pod_waiting(
    api: FakeClient, make_isolating: Isolating
) -> None:
    await make_isolating(NODE)
    api.put("pods", make_pod("one", volumes=[{"name": "v", "image": {"reference": "none:1"}}]))
    await api.until(lambda: any("none:1" in text for text in api.events("FailedMount")))


async def test_a_node_lists_the_images_of_its_machine(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    stored = image(host, "shop:1")

    def images() -> Any:
        return api.objects["nodes"]["n1"]["status"].get("images") or []

    await api.until(lambda: images() != [])
    assert images() == [{"names": ["docker.io/library/shop:1", "shop:1"], "sizeBytes": stored.size}]
