"""What is drawn and stamped has the form that others expect."""

import random
import uuid

from rayplane.storage.env import Env, SystemClock


def test_uuids_are_those_of_the_standard_library() -> None:
    env, rng = Env(SystemClock(), random.Random(7), None), random.Random(7)  # type: ignore[arg-type]
    for _ in range(1000):
        assert env.uuid() == str(uuid.UUID(int=rng.getrandbits(128), version=4))
