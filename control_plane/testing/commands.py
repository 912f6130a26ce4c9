"""The commands of `rayplane` as methods of a cluster: words in, and out what `-o json` prints, as Python has it."""

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError

NOW = "-0s"


class CommandFailed(ClusterError):
    """A command of `Cluster.kubectl` or `Cluster.run` ended with another exit code than 0."""

    def __init__(self, command: list[str], exit_code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)}: exit code {exit_code}: {output.strip()}")
        self.exit_code = exit_code
        self.output = output
        """What it wrote to standard output and standard error."""


class Commands(ABC):
    """The commands on a cluster that is up. Raises CommandFailed, whose text says what to do.

    An instant is a revision (any resourceVersion), a time (RFC 3339), or a span back such as "-10m".
    """

    @abstractmethod
    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a rayplane command against this cluster; its standard output."""

    # Objects, their past and the reasons for them

    def get(
        self,
        *what: str,
        namespace: str = "",
        all_namespaces: bool = False,
        selector: str = "",
        field_selector: str = "",
        at: str | int = "",
    ) -> list[Object]:
        """Objects, as they were at an instant where one is given: `get("pods", at="-5m")`, `get("pod/web-0", at=712)`.

        As `rayplane get -o json` prints them, without managedFields. `namespace`: "default" where none is named.
        """
        flags = _flags(namespace=namespace, selector=selector, field_selector=field_selector, at=at)
        found = self._json("get", *what, *flags, *(["-A"] if all_namespaces else []))
        objects: list[Object] = found.get("items", [found])
        return objects

    def diff(self, since: str | int, to: str | int = NOW, *, namespace: str = "") -> list[dict[str, Any]]:
        """What became of objects between two instants: `changes` of `rayplane diff -o json`."""
        told = self._json("diff", f"--from={since}", f"--to={to}", *_flags(namespace=namespace))
        changes: list[dict[str, Any]] = told["changes"]
        return changes

    def rewind(self, to: str | int, *, namespace: str = "", dry_run: bool = False) -> str:
        """Write objects again as they were at an instant; what was written, or would be, a line each."""
        return self.run("rewind", f"--to={to}", "--dry-run" if dry_run else "--yes", *_flags(namespace=namespace))

    def describe(self, *what: str, namespace: str = "") -> str:
        """All there is to know of objects, for people: `describe("pod", "web-0")`."""
        return self.run("describe", *what, *_flags(namespace=namespace))

    def why(self, *what: str, namespace: str = "") -> dict[str, Any]:
        """Which controllers acted on an object, from which changes: `why("deployment", "web")`."""
        return self._json("why", *what, *_flags(namespace=namespace))

    def explain(self, pod: str, *, namespace: str = "") -> dict[str, Any]:
        """Why a pod is on its node, or on none."""
        return self._json("explain", "pod", pod, *_flags(namespace=namespace))

    def plan(
        self, *files: str | os.PathLike[str], beside: bool = True, times: float = 1.0, survive: str = "", zones: int = 0
    ) -> dict[str, Any]:
        """How many nodes the objects of files need, `beside` what this cluster has; without any, its pods that wait.

        `times`: as many replicas as they say; `survive`: any one "node", or any one "zone", may be lost.
        """
        words = [f"--filename={os.fspath(file)}" for file in files] + (["--running"] if beside else [])
        try:
            told = self.run("plan", *words, *_flags(times=times, survive=survive, zones=zones), "-o", "json")
        except CommandFailed as e:
            # It says so by its exit code, too, when there is no place for some.
            if not e.output.startswith("{"):
                raise
            told = e.output
        found: dict[str, Any] = json.loads(told)
        return found

    def trace(self, request: str = "") -> list[dict[str, Any]]:
        """A request by its id (its Audit-Id), or recent ones that were slow, failed or asked to be explained."""
        told = self.run("trace", *_flags(id=request), "-o", "json")
        return [json.loads(line) for line in told.splitlines()]

    # Parts

    def ports(self) -> list[dict[str, str]]:
        """Every port, what speaks there and who may."""
        found: list[dict[str, str]] = self._json("status", "--ports")["ports"]
        return found

    def add(self, kind: str, name: str = "", *, kubelet_config: str | os.PathLike[str] = "", runtime: str = "") -> str:
        """Add a "member", an "apiserver" or a "node"; its name.

        Of a node: `kubelet_config`, a file, and `runtime` in place of the cluster's.
        """
        flags = _flags(kubelet_config=os.fspath(kubelet_config), runtime=runtime)
        return str(self._json("add", kind, *([name] if name else []), *flags)["name"])

    def remove(self, kind: str, name: str = "") -> str:
        """Remove one of them, the last where none is named; its name. Nothing is lost."""
        return str(self._json("remove", kind, *([name] if name else []))["name"])

    def drain(self, machine: str, *, force: bool = False) -> None:
        """Empty a machine; `force`: also of pods that nothing would make again."""
        self._json("drain", "machine", machine, *(["--force"] if force else []))

    def undrain(self, machine: str) -> None:
        """Let a machine that was drained be used again."""
        self._json("undrain", "machine", machine)

    def logs_of(self, component: str, *, tail: int | None = None) -> str:
        """What a component has written to its log: `logs_of("member-0")`."""
        return self.run("logs-of", component, *_flags(tail="" if tail is None else tail))

    def upgrade(self, python: str | os.PathLike[str], *, dry_run: bool = False) -> dict[str, Any]:
        """Replace the parts one by one with those of another environment, of which this is the Python."""
        flags = ["--python", os.fspath(python), *(["--dry-run"] if dry_run else [])]
        return self._json("upgrade", *flags)

    def restore(
        self, file: str | os.PathLike[str], *, force: bool = False, encryption_key: str | os.PathLike[str] = ""
    ) -> None:
        """Bring it to what `snapshot` wrote, and go on from there; `force`: even if it holds workloads."""
        key = _flags(encryption_key=os.fspath(encryption_key))
        self._json("restore", os.fspath(file), *key, *(["--force"] if force else []))

    def trial(self, scenario: str | os.PathLike[str], *, seed: int | None = None, keep: bool = False) -> dict[str, Any]:
        """Put it to a trial (`chaos run`): the report, whose `verdict` is "ok" where all held.

        `keep`: leave what the scenario makes.
        """
        with tempfile.TemporaryDirectory(prefix="rayplane-trial-") as place:
            report = Path(place) / "report.json"
            flags = [f"--json={report}", *_flags(seed="" if seed is None else seed), *(["--keep"] if keep else [])]
            try:
                self.run("chaos", "run", os.fspath(scenario), *flags)
            except CommandFailed:
                if not report.exists():
                    raise
            found: dict[str, Any] = json.loads(report.read_bytes())
        return found

    # Images and tokens

    def images(self) -> dict[str, Any]:
        """Images of each machine, by its address, and the programs that stand for images."""
        found: dict[str, Any] = self._json("image", "list")["machines"]
        return found

    def load_image(self, file: str | os.PathLike[str], *, tags: Sequence[str] = ()) -> None:
        """Put images of an archive or a folder on all machines."""
        self.run("image", "load", os.fspath(file), *(f"--tag={tag}" for tag in tags))

    def save_image(self, image: str, file: str | os.PathLike[str]) -> None:
        """Write an image as an archive."""
        self.run("image", "save", image, os.fspath(file))

    def build_image(
        self, folder: str | os.PathLike[str], *, tag: str, target: str = "", arguments: Sequence[str] = ()
    ) -> None:
        """Build an image of a folder with a Dockerfile, for all machines. `arguments`: "NAME=VALUE" of its ARGs."""
        given = [f"--build-arg={one}" for one in arguments]
        self.run("image", "build", os.fspath(folder), f"--tag={tag}", *_flags(target=target), *given)

    def map_image(self, image: str, command: str) -> None:
        """Let a program of the machines stand for an image; "" ends that."""
        self.run("image", "map", image, f"--command={command}" if command else "--remove")

    def tag_image(self, image: str, new: str) -> None:
        """Give an image one more name."""
        self.run("image", "tag", image, new)

    def remove_images(self, *images: str) -> None:
        """Remove names of images, and images that have no other, from every machine."""
        self.run("image", "rm", *images)

    def prune_images(self, *, everything: bool = False) -> None:
        """Remove images that no container uses; without a name, or `everything`."""
        self.run("image", "prune", *(["--all"] if everything else []))

    def create_token(self, *, ttl: str = "", description: str = "") -> str:
        """A token with which machines join; "0" as `ttl`: for ever."""
        return self.run("token", "create", *_flags(ttl=ttl, description=description)).strip()

    def tokens(self) -> list[dict[str, Any]]:
        """Tokens that there are."""
        found: list[dict[str, Any]] = self._json("token", "list")
        return found

    def delete_token(self, token: str) -> None:
        """Let nobody join with a token any more."""
        self.run("token", "delete", token)

    def _json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json"))


def _flags(**values: str | float) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value != ""]
