"""The API in memory, for tests: one store of objects, and clients of it whose network can fail."""

from tests.fakes.client import FakeClient
from tests.fakes.store import START, Store

__all__ = ["START", "FakeClient", "Store"]
