"""Leading the time of a running cluster forward: the way to its process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayplane.control_plane.cluster import advancing
from rayplane.control_plane.cluster.state import StateDir
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb


async def test_a_process_that_is_led_forward_may_be_busy_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, bool]] = []

    @contextlib.asynccontextmanager
    async def access(_: StateDir, *, patient: bool = False) -> AsyncIterator[SimpleNamespace]:
        async def lead(request: pb.AdvanceRequest) -> AsyncIterator[pb.AdvanceResponse]:
            asked.append((request.span_s, patient))
            yield pb.AdvanceResponse(ahead_s=request.span_s + 1)

        yield SimpleNamespace(supervisor=SimpleNamespace(Advance=lead))

    monkeypatch.setattr(advancing, "access", access)
    assert await advancing.advance(StateDir(tmp_path), "2h") == 7201
    assert asked == [(7200, True)]
