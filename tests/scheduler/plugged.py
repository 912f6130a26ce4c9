"""Schedulers whose profiles have a plug-in of the test's own making, named Mine; the profile `plain` may have Other."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.scheduler import Scheduler, SchedulerConfig
from rayplane.control_plane.scheduler.configuration import read_configuration
from rayplane.control_plane.scheduler.framework import PodPlugin, points_of
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient

FILE = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
  plugins:
    multiPoint: {enabled: [{name: Mine}]}
%s
  pluginConfig: [{name: Mine, args: {label: gold}}]
- schedulerName: plain
%s
"""
SORTS = "    queueSort: {disabled: [{name: PrioritySort}]}"
PLAIN_SORTS = "  plugins: {queueSort: {enabled: [{name: Mine}], disabled: [{name: PrioritySort}]}}"

PLAIN_OTHER = "  plugins: {multiPoint: {enabled: [{name: Other}]}}"

Made = Callable[..., Awaitable[Scheduler]]
"""Called with the class of Mine, and that of Other."""


@asynccontextmanager
async def schedulers_of(api: FakeClient) -> AsyncIterator[Made]:
    """What starts one with a plug-in; all are stopped at the end."""
    made: list[Scheduler] = []

    async def started(plugin: type[PodPlugin], other: type[PodPlugin] | None = None) -> Scheduler:
        sorts = "queueSort" in points_of(plugin)
        plain = PLAIN_OTHER if other is not None else PLAIN_SORTS if sorts else ""
        plugins = {"Mine": plugin} | ({"Other": other} if other is not None else {})
        file = read_configuration(
            FILE % (SORTS if sorts else "", plain), {name: points_of(one) for name, one in plugins.items()}
        )
        config = SchedulerConfig(identity="s0", profiles=file.profiles, backoff=Backoff(0.01, 0.02))
        env = Env(SystemClock(), random.Random(1), cast(Any, None))
        one = Scheduler(config, env, cast(Any, None), client=cast(ApiClient, api), plugins=plugins)
        made.append(one)
        await one.start()
        return one

    yield started
    for one in made:
        await one.stop()
