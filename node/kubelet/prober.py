"""Prober: probes real containers by HTTP, TCP, gRPC and commands, with Kubernetes' periods and thresholds.

One task per probe, for as long as the container's run lasts. Each result goes to whoever asked, and whether
it counts from now on.
Until its first success a readiness probe is tried every second even if its period is longer: more tries cannot do
harm then, and a pod that is ready should be seen to be.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.connection_io import Peer
from rayplane.control_plane.rpc.grpc_client import GrpcChannel
from rayplane.node.errors import RuntimeAway
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.ports import port_number
from rayplane.storage.env.leaps import at_machine_pace

OUTPUT_MAX = 10 * 1024
UNREADY_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers of a core/v1 Probe with their defaults."""

    initial_delay_s: float
    period_s: float
    timeout_s: float
    successes: int
    failures: int

    @staticmethod
    def of(probe: dict[str, Any]) -> "Thresholds":
        return Thresholds(
            float(probe.get("initialDelaySeconds") or 0),
            float(probe.get("periodSeconds") or 10),
            float(probe.get("timeoutSeconds") or 1),
            int(probe.get("successThreshold") or 1),
            int(probe.get("failureThreshold") or 3),
        )


class ProbeCounter:
    """A pure counter that turns single results into changes. `add` gives the new verdict when it changes, else None."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._verdict: bool | None = None
        self._same: tuple[bool, int] = (True, 0)

    def add(self, ok: bool) -> bool | None:
        last, count = self._same
        self._same = (ok, count + 1 if last == ok else 1)
        needed = self._thresholds.successes if ok else self._thresholds.failures
        if self._same[1] < needed or self._verdict is ok:
            return None
        self._verdict = ok
        return ok


class Prober:
    """A runner of probes."""

    async def run(
        self,
        probe: str,
        container: dict[str, Any],
        run: ContainerRun,
        *,
        ip: str,
        runs: Callable[[], bool],
        report: Callable[[bool, str, bool], None],
    ) -> None:
        """Probe one run of a container until it ends, or until the result is final.

        `probe`: startup, readiness or liveness; `container`: its part of the pod's spec; `runs`: whether this run goes
        on; `report`: told the result, why it failed or what is odd about a success, and whether it counts from now on.
        """
        spec = container[f"{probe}Probe"]
        thresholds = Thresholds.of(spec)
        counter = ProbeCounter(thresholds)
        await asyncio.sleep(thresholds.initial_delay_s)
        ever = False
        while runs():
            try:
                ok, message = await self._try(spec, run, container, ip=ip, timeout=thresholds.timeout_s)
            except RuntimeAway:
                # That is the runtime's trouble: of the container nothing is known.
                await asyncio.sleep(thresholds.period_s)
                continue
            ever |= ok
            if not runs():
                return
            verdict = counter.add(ok)
            report(ok, message, verdict is not None)
            if verdict is not None and (probe == "startup" or (probe == "liveness" and not verdict)):
                return
            hurry = probe == "readiness" and not ever
            await asyncio.sleep(min(UNREADY_PERIOD_S, thresholds.period_s) if hurry else thresholds.period_s)

    @at_machine_pace
    async def _try(
        self,
        probe: dict[str, Any],
        run: ContainerRun,
        container: dict[str, Any],
        *,
        ip: str,
        timeout: float,
    ) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(timeout):
                if "exec" in probe:
                    return await _try_command(run, probe["exec"].get("command") or [])
                if "httpGet" in probe:
                    return await _try_http(probe["httpGet"], run, container, ip)
                if "tcpSocket" in probe:
                    return await _try_tcp(probe["tcpSocket"], run, container, ip)
                if "grpc" in probe:
                    return await _try_grpc(probe["grpc"], run, ip)
        except TimeoutError:
            return False, _timed_out(probe, container, ip, timeout)
        except RuntimeAway:
            raise
        except Exception as e:  # also one that cannot be made at all, of words that no address is made of
            return False, str(e)
        return False, "the probe names no handler"


async def _try_http(action: dict[str, Any], run: ContainerRun, container: dict[str, Any], ip: str) -> tuple[bool, str]:
    from rayplane.node.runtime.http_get import http_get

    status, body = await http_get(action, run, container, ip=ip, agent="kube-probe/1.37")
    if 200 <= status < 300:
        return True, ""
    if 300 <= status < 400:
        return True, f"Probe terminated redirects, Response body: {body}"
    return False, f"HTTP probe failed with statuscode: {status}"


def _timed_out(probe: dict[str, Any], container: dict[str, Any], ip: str, timeout: float) -> str:
    if "httpGet" not in probe:
        return f"probe timed out after {timeout:g}s"
    from rayplane.node.runtime.http_get import url_of

    url = url_of(probe["httpGet"], container, ip=ip)
    return f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'


async def _try_command(run: ContainerRun, command: list[str]) -> tuple[bool, str]:
    session = await run.exec(command, tty=False, stdin=False)
    output = bytearray()
    try:
        async with contextlib.aclosing(session.output()) as chunks:  # type: ignore[type-var]
            async for out, err in chunks:
                output += (out + err)[: OUTPUT_MAX - len(output)]
        code = await session.wait()
    except asyncio.CancelledError:
        session.kill()
        raise
    return code == 0, "" if code == 0 else output.decode(errors="replace").strip()


async def _try_tcp(action: dict[str, Any], run: ContainerRun, container: dict[str, Any], ip: str) -> tuple[bool, str]:
    host, port = action.get("host") or ip, port_number(action.get("port"), container)
    try:
        sock = await run.connect(host, port)
    except OSError as e:
        from rayplane.control_plane.rpc.http_failures import not_connected

        return False, not_connected(host, port, e)
    sock.close()
    return True, ""


async def _try_grpc(action: dict[str, Any], run: ContainerRun, ip: str) -> tuple[bool, str]:
    from grpc_health.v1 import health_pb2

    port = int(action["port"])
    tls = _anybody() if action.get("mode") == "TLS" else None
    # By its address: there is no name that its certificate would have to bear.
    channel = GrpcChannel(f"{ip}:{port}", tls, connect=partial(run.connect, ip, port), peer=Peer(server_name=ip))
    stub = Stub(channel, health_pb2.DESCRIPTOR.services_by_name["Health"])
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=action.get("service") or ""))
    except RpcError as e:
        return False, f"rpc failed: {e.message}"
    finally:
        await channel.close()
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return serving, "" if serving else "service unhealthy"


@cache
def _anybody() -> ssl.SSLContext:
    """As in Kubernetes, whoever answers may: a probe asks whether a container lives, and not who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
