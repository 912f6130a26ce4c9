"""Password hashes (bcrypt) and random tokens: in a real process, and such that a simulation can repeat them.

A hash at the usual cost takes some 60 ms: a real process computes it in a thread, off the event loop. A simulation has
no threads and no chance of its own: it computes at once, with salt from its generator.
"""

import asyncio
import base64
import random
import secrets
from typing import Protocol

import bcrypt

from rayplane.control_plane.etcd_errors import PasswordTooLong
from rayplane.storage.env import Env

#: bcrypt looks at no more bytes of a password than these.
PASSWORD_BYTES_MAX = 72
TOKEN_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TOKEN_LENGTH = 16
_STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BCRYPT = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Secrets(Protocol):
    """Password hashes and random tokens."""

    async def hash(self, password: str) -> bytes:
        """Raises PasswordTooLong."""

    async def matches(self, password: str, hashed: bytes) -> bool: ...

    def token_prefix(self) -> str:
        """Letters that nobody can guess."""


class ProcessSecrets:
    """Secrets of a real process: a thread for the work, the operating system for chance. `cost` is bcrypt's, 4 to 31.

    One thread at a time: many log-ins at once must not take the processors and threads that the log needs.
    """

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._turn = asyncio.Semaphore(1)

    async def hash(self, password: str) -> bytes:
        data = _checked(password)
        async with self._turn:
            return await asyncio.to_thread(bcrypt.hashpw, data, bcrypt.gensalt(self._cost))

    async def matches(self, password: str, hashed: bytes) -> bool:
        async with self._turn:
            return await asyncio.to_thread(_matches, password, hashed)

    def token_prefix(self) -> str:
        return "".join(secrets.choice(TOKEN_LETTERS) for _ in range(TOKEN_LENGTH))


class SimulatedSecrets:
    """Secrets of a simulation: everything from `rng`, nothing waits."""

    def __init__(self, rng: random.Random, cost: int) -> None:
        self._rng = rng
        self._cost = cost

    async def hash(self, password: str) -> bytes:
        salt = base64.b64encode(self._rng.randbytes(16)).rstrip(b"=").translate(bytes.maketrans(_STANDARD, _BCRYPT))
        return bcrypt.hashpw(_checked(password), b"$2b$%02d$%s" % (self._cost, salt))

    async def matches(self, password: str, hashed: bytes) -> bool:
        return _matches(password, hashed)

    def token_prefix(self) -> str:
        return "".join(self._rng.choice(TOKEN_LETTERS) for _ in range(TOKEN_LENGTH))


def default_secrets(env: Env, cost: int) -> Secrets:
    """Those of a process where the disk has real paths, else those of a simulation."""
    return SimulatedSecrets(env.rng, cost) if env.disk.local_path("") is None else ProcessSecrets(cost)


def _checked(password: str) -> bytes:
    data = password.encode()
    if len(data) > PASSWORD_BYTES_MAX:
        raise PasswordTooLong
    return data


def _matches(password: str, hashed: bytes) -> bool:
    data = password.encode()
    if len(data) > PASSWORD_BYTES_MAX:
        return False
    try:
        return bcrypt.checkpw(data, hashed)
    except ValueError:
        return False  # no password was ever set: what is kept is not a hash
