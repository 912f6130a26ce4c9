"""Modules of Python's library as code in a simulated process sees them: with the run's clock and chance.

Code that is loaded by `load` imports these in place of `time`, `datetime`, `random`, `uuid`, `secrets` and `os`; all
else of them is as it was. What it imports from elsewhere sees the machine's: a run is then not the same again.
"""

import builtins
import datetime
import os
import random
import secrets
import sys
import time
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from rayplane.control_plane.simulation.loop import refuse
from rayplane.storage.env import Env

_NS = 1_000_000_000


def load(code: types.CodeType, file: str, name: str, env: Env, now: Callable[[], float]) -> dict[str, Any]:
    """Run a module's code and return its names. `now`: the loop's time. Raises what it raises."""
    own = {
        "time": _time(env, now),
        "datetime": _datetime(env),
        "random": _random(env.rng),
        "uuid": _like(uuid, uuid1=lambda *_: uuid.UUID(env.uuid()), uuid4=lambda: uuid.UUID(env.uuid())),
        "secrets": _secrets(env.rng),
        "os": _like(os, urandom=env.rng.randbytes),
    }
    real = builtins.__import__

    def imported(
        wanted: str,
        names: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        parts: Any = (),
        level: int = 0,
    ) -> Any:
        first = wanted.partition(".")[0]
        if level == 0 and first in own and (first == wanted or not parts):
            return own[first]
        return real(wanted, names, local, parts, level)

    module = types.ModuleType(name)
    module.__file__ = file
    module.__dict__["__builtins__"] = vars(builtins) | {"__import__": imported}
    sys.modules[name] = module  # dataclasses look there for the types that a class names
    exec(code, module.__dict__)
    return module.__dict__


def _like(module: types.ModuleType, **others: Any) -> types.ModuleType:
    """A module with all that is in another, but for some names."""
    made = types.ModuleType(module.__name__, module.__doc__)
    made.__dict__.update(vars(module) | others)
    return made


def _time(env: Env, now: Callable[[], float]) -> types.ModuleType:
    def stamp() -> float:
        return env.clock.now().timestamp()

    def or_now(function: Callable[[float], Any]) -> Callable[..., Any]:
        return lambda seconds=None: function(stamp() if seconds is None else seconds)

    def sleep(seconds: float) -> NoReturn:
        refuse(f"a pause of the whole process: use `await asyncio.sleep({seconds})`")

    def strftime(form: str, moment: Any = None) -> str:
        return time.strftime(form, time.gmtime(stamp()) if moment is None else moment)

    spans = {name: now for name in ("monotonic", "perf_counter", "process_time", "thread_time")}
    whole = {f"{name}_ns": lambda: int(now() * _NS) for name in spans}
    moments = {name: or_now(getattr(time, name)) for name in ("gmtime", "ctime")}
    stamps = {"time": stamp, "time_ns": lambda: int(stamp() * _NS), "localtime": moments["gmtime"]}
    return _like(time, sleep=sleep, strftime=strftime, **spans, **whole, **moments, **stamps)


class AsReal(type):
    """The type of classes whose instances are those of the class that they stand for."""

    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, cls.__mro__[1])


def _datetime(env: Env) -> types.ModuleType:
    class OwnDatetime(datetime.datetime, metaclass=AsReal):
        """A datetime whose present is the run's, in UTC where nothing else is asked for."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            moment = env.clock.now()
            return moment.replace(tzinfo=None) if tz is None else moment.astimezone(tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now()

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class OwnDate(datetime.date, metaclass=AsReal):
        """A date whose today is the run's."""

        @classmethod
        def today(cls) -> Any:
            return env.clock.now().date()

    return _like(datetime, datetime=OwnDatetime, date=OwnDate)


def _random(rng: random.Random) -> types.ModuleType:
    class OwnRandom(random.Random):
        """A generator that begins with the run's chance where no seed is given."""

        def __init__(self, seed: Any = None) -> None:
            super().__init__(rng.getrandbits(64) if seed is None else seed)

    def system() -> NoReturn:
        refuse("chance of the machine: use random.Random")

    methods = {n: getattr(rng, n) for n in dir(rng) if n[0] != "_" and hasattr(random, n) and callable(getattr(rng, n))}
    return _like(random, **methods, Random=OwnRandom, SystemRandom=system)


def _secrets(rng: random.Random) -> types.ModuleType:
    def some(size: int | None) -> bytes:
        return rng.randbytes(secrets.DEFAULT_ENTROPY if size is None else size)

    return _like(
        secrets,
        choice=rng.choice,
        randbelow=rng.randrange,
        randbits=rng.getrandbits,
        token_bytes=lambda nbytes=None: some(nbytes),
        token_hex=lambda nbytes=None: some(nbytes).hex(),
        token_urlsafe=lambda nbytes=None: some(nbytes).hex(),
    )
