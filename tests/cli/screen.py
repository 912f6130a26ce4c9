"""A session on a cluster of the test's process, with what it prints kept."""

import io
from dataclasses import dataclass
from pathlib import Path

from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.session import Session, Terminal
from rayplane.storage.env import SystemClock
from tests.cluster.harness import Cluster


@dataclass
class Screen:
    """A session and what it has printed so far."""

    session: Session
    stdout: io.BytesIO
    stderr: io.BytesIO

    def take(self) -> str:
        """What was printed since the last time."""
        text = self.stdout.getvalue().decode()
        self.stdout.seek(0)
        self.stdout.truncate()
        return text

    def errors(self) -> str:
        text = self.stderr.getvalue().decode()
        self.stderr.seek(0)
        self.stderr.truncate()
        return text


def screen(cluster: Cluster, namespace: str = "") -> Screen:
    out, err = io.BytesIO(), io.BytesIO()
    session = Session(
        cluster.api, cluster.etcd, cluster.network, Kinds(cluster.api), SystemClock(), Terminal(out, err), namespace
    )
    return Screen(session, out, err)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
