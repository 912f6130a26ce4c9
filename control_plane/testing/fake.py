"""A whole API server as a client in a test: blocking, in memory, without sockets and processes."""

from rayplane.control_plane.client.api import TIMEOUT_S
from rayplane.control_plane.client.blocking import Client
from rayplane.control_plane.client.on_thread import OnThread
from rayplane.control_plane.client.pods import PodClient
from rayplane.control_plane.cluster.in_memory import AsyncFake
from rayplane.storage.env.leaps import LeapingLoop


class Fake(Client):
    """A client of an API server of its own, which ends with it. Use it in a `with` block.

    with rayplane.testing.fake() as api:
        api.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
        api.advance("2h")
    """

    def __init__(self, *, nodes: int = 0, timeout: float = TIMEOUT_S) -> None:
        self._fake = AsyncFake(nodes=nodes)
        OnThread.__init__(self, LeapingLoop())
        self._timeout_s = timeout
        self._network = self._fake.network
        try:
            self._do(self._fake.start())
        except BaseException:
            self.close()
            raise
        self._api = self._fake.api
        self._pods = PodClient(self._api)

    def advance(self, span: str | float) -> None:
        """Let time pass: "2h", or seconds. Leases end, jobs of CronJobs start and deadlines pass as they would."""
        self._do(self._fake.advance(span))

    async def _end(self) -> None:
        await self._fake.stop()
        await super()._end()


def fake(*, nodes: int = 0) -> Fake:
    """A client of an API server in memory, as empty as a new cluster's.

    Without `nodes` nothing acts on what is written, and pods need no service account; with them there are a scheduler,
    the controllers and so many simulated nodes.
    """
    return Fake(nodes=nodes)
