"""What our own Ray runs instead of its own programs, and the rests of a worker's main thread."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.cluster import ray_hook, ray_wait, ray_worker, resting

SHOWS = """
import json, sys
print(json.dumps([sys.argv, sys.path[0], [type(sys.modules[name]).__name__ for name in ("requests", "jsonschema")]]))
"""
USES = "import requests; import requests.adapters; print(requests.get.__module__, requests.adapters.__name__)"
CONNECTS = """
import sys
import ray
from ray._private.serialization import SerializationContext
SerializationContext(ray._private.worker.global_worker)
import ray.util.serialization_addons
before = "pydantic" in sys.modules
import pydantic
print(before, pydantic.BaseModel.__name__)
"""
PACKS = """
import importlib, inspect, sys
taken = []
Called = type(sys.modules["ray._private.runtime_env.packaging"])
take = Called.__getattr__
Called.__getattr__ = lambda module, name: taken.append((module.__name__, name)) or take(module, name)
import ray
from ray._private.runtime_env.packaging import is_zip_uri
from ray.util import pdb
seldom = {"pdb", "tarfile", "filelock"}
before = sys.modules.keys() & seldom
print(*before, is_zip_uri("gcs://a.zip"), pdb.set_trace.__module__, *sorted(sys.modules.keys() & seldom))
named = {one for one in taken if one[1][0].islower()}
others = [one for one in named if not inspect.isfunction(getattr(importlib.import_module(one[0]), one[1]))]
print("is_zip_uri" in {name for _, name in named}, others)
"""
# Each is megabytes in every process of a cluster, for the one or two that use it.
OTHERS = (
    "aiohttp",
    "ray.autoscaler.sdk",
    "rayplane.control_plane.api.audit",
    "rayplane.control_plane.apiserver.storage.encryption",
    "rayplane.node.lifecycle",
)
PORTS = {name: name.lower() for name in ray_hook._PORTS}
RAYLET = ["raylet", "--session_dir=/s", "--node_id=7", "--dashboard_agent_command=a b", "--runtime_env_agent_command=c"]


def worker(tmp_path: Path, program: str, *options: str) -> str:
    (tmp_path / "default_worker.py").write_text(program)
    (tmp_path / "setup_worker.py").write_text("import sys; print('set up', *sys.argv[1:])")
    command = [sys.executable, ray_worker.__file__, str(tmp_path / "default_worker.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.processes
def test_a_worker_is_the_program_that_ray_names_and_loads_later_what_it_never_needs(tmp_path: Path) -> None:
    argv, folder, kinds = json.loads(worker(tmp_path, SHOWS, "--node-id=1", "--language=PYTHON"))
    assert argv == [str(tmp_path / "default_worker.py"), "--node-id=1"]
    # Nothing that lies beside our program may be taken for what Ray imports.
    assert folder == str(tmp_path)
    assert kinds == ["Later", "Later"]
    assert worker(tmp_path, USES, "--language=PYTHON") == "requests.api requests.adapters"


@pytest.mark.processes
def test_a_worker_gets_no_serializers_for_libraries_that_nothing_here_sends_objects_of(tmp_path: Path) -> None:
    assert worker(tmp_path, CONNECTS, "--language=PYTHON") == "False BaseModel", "who needs one imports it as ever"


@pytest.mark.processes
def test_a_worker_loads_what_packs_runtime_environments_and_debugs_when_that_is_used(tmp_path: Path) -> None:
    said, of_names = worker(tmp_path, PACKS, "--language=PYTHON").splitlines()
    assert said == "True ray.util.rpdb filelock pdb tarfile"
    assert of_names == "True []", "each name that Ray takes as it is imported is a function's"


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ray_worker.Called:
    """In the place of a module with a class and a function."""
    (tmp_path / "seldom.py").write_text("class Packed: ...\ndef packed(): return Packed")
    monkeypatch.syspath_prepend(tmp_path)
    found = ray_worker.Called("seldom")
    monkeypatch.setitem(sys.modules, "seldom", found)
    return found


def test_what_is_no_function_of_a_module_is_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stand_in(tmp_path, monkeypatch)
    assert isinstance(module.Packed, type)
    assert module.packed() is module.Packed


def test_a_thread_does_not_take_away_what_another_has_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, classes = stand_in(tmp_path, monkeypatch), set[Any]()

    class Modules(dict[str, Any]):
        """The modules; while one is looked up, another thread imports it, if nothing keeps it from that."""

        def get(self, name: str, default: Any = None) -> Any:
            found = sys.modules[name]
            if not ray_worker._LOCK.locked():
                del sys.modules[name]
                classes.add(importlib.import_module(name).Packed)
            return found

        def __delitem__(self, name: str) -> None:
            del sys.modules[name]

    monkeypatch.setattr(ray_worker, "sys", SimpleNamespace(modules=Modules()))
    assert len(classes | {module.packed()}) == 1


@pytest.mark.processes
def test_an_actor_loads_nothing_before_it_knows_its_role_that_few_roles_need() -> None:
    code = f"import sys, rayplane.control_plane.cluster.actor; print([m for m in {OTHERS!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
def test_a_worker_with_a_runtime_environment_is_set_up_by_ray(tmp_path: Path) -> None:
    options = ("--language=PYTHON", '--serialized-runtime-env-context={"a": 1}')
    assert worker(tmp_path, SHOWS, *options) == " ".join(("set up", str(tmp_path / "default_worker.py"), *options))


@pytest.mark.processes
def test_who_waits_for_rays_processes_ends_with_the_first_of_them() -> None:
    waits = f"sleep 600 >/dev/null 2>&1 & echo $!; sh -c 'exit 3' & exec {sys.executable} -I -S {ray_wait.__file__}"
    ended = subprocess.run(["sh", "-c", waits], capture_output=True, text=True, check=False)
    os.kill(int(ended.stdout), 9)
    assert ended.returncode == 1
    assert "has ended with 3" in ended.stderr


def settled(monkeypatch: pytest.MonkeyPatch, **of_raylet: Any) -> tuple[Any, type[Any], list[list[str]]]:
    """After the hook: Ray's parameters, its class of nodes, and the commands of the processes that it starts then."""
    commands: list[list[str]] = []

    def start(command: list[str], process_type: str, *, fate_share: bool) -> None:
        commands.append(command)

    services = SimpleNamespace(start_ray_process=start)
    node: type[Any] = type("Node", (), {})
    inner = SimpleNamespace(node=SimpleNamespace(Node=node), services=services)
    monkeypatch.setitem(sys.modules, "ray._private", inner)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(_raylet=SimpleNamespace(**of_raylet)))
    parameters = SimpleNamespace(ray_client_server_port=10001)
    # A slot that no cluster has, and no longer than this.
    monkeypatch.setenv(ray_hook.SLOT, "-1")
    monkeypatch.setattr(os, "set_inheritable", lambda sign, _: os.close(sign))
    ray_hook.settle(parameters, True)
    for command, process_type in ((RAYLET, "raylet"), (["gcs", "--dashboard_agent_command=a"], "gcs_server")):
        services.start_ray_process(command, process_type, fate_share=True)
    return parameters, node, commands


def test_ray_starts_without_dashboard_agents_and_server_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []
    parameters, node, commands = settled(monkeypatch, persist_port=lambda *port: told.append(port), **PORTS)
    assert parameters.ray_client_server_port is None
    assert Path(parameters.setup_worker_path) == Path(ray_worker.__file__)
    assert node().start_api_server(include_dashboard=False, raise_on_failure=False) is None
    stands_in = 'sh -c "exec cat"'
    agents = [f"--dashboard_agent_command={stands_in}", f"--runtime_env_agent_command={stands_in}"]
    assert commands == [[*RAYLET[:3], *agents], ["gcs", "--dashboard_agent_command=a"]]
    # The raylet waits for these files.
    assert told == [("/s", "7", PORTS[name], -1) for name in ray_hook._PORTS]


@pytest.mark.parametrize("missing", ["persist_port", ray_hook._PORTS[-1]])
def test_a_ray_whose_agents_tell_their_ports_otherwise_keeps_them(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    of_raylet = {"persist_port": print, **PORTS}
    del of_raylet[missing]
    assert settled(monkeypatch, **of_raylet)[2][0] == RAYLET


def test_the_command_that_started_ray_becomes_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    monkeypatch.setattr(sys, "argv", ["scripts.py", "start", "--temp-dir", "/d/ray"])
    settled(monkeypatch)[1]().dead_processes()
    # By the folder it is known again (`ray_cluster.stop`).
    assert became[0][3:] == [ray_wait.__file__, "start", "--temp-dir", "/d/ray"]


def test_the_main_thread_rests_again_and_again_until_it_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, rested = asyncio.new_event_loop(), threading.Semaphore(0)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    monkeypatch.setattr(resting, "REST_S", 0.0)
    monkeypatch.setattr(resting, "AWAKE_S", 0.0)
    spans: list[str] = []

    def rest(_: float) -> None:
        spans.append(threading.current_thread().name)
        rested.release()

    monkeypatch.setattr(resting, "_sleep", rest)
    rests = resting.Rests(loop)
    try:
        for _ in range(3):
            # Signals come between two instructions of the main thread.
            while not rested.acquire(timeout=0.01):
                pass
        rests.end()
        ended = len(spans)
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    finally:
        rests.end()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert set(spans) == {threading.main_thread().name}
    assert len(spans) <= ended + 1
    # Nobody is left that could be sent to rest.
    loop.close()
    rests._awake(0.0)
