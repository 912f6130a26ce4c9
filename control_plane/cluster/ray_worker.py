"""The program of a Ray worker in a Ray cluster of our own.

    python ray_worker.py DEFAULT_WORKER --language=PYTHON OPTION...

Ray's own program in this place loads all of Ray, only to become a second Python with what a runtime environment says.
Where there is none this process itself goes on as the worker, and leaves until they are used what workers of ours
never use. Beside Ray it is run by path: nothing of rayplane is loaded yet.
"""

import importlib
import os
import runpy
import sys
import threading
import types
from pathlib import Path
from typing import Any

_ENVIRONMENT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="
_SETUP = "setup_worker.py"
#: A fifth of the memory of Ray's imports: it asks clouds for accelerators, looks at runtime environments, can debug.
_SELDOM = "jsonschema requests ray.util.rpdb"
#: Modules of which Ray takes functions by name while it is imported, a sixth of what is left: they make and pack
#: runtime environments, and print tables.
_SELDOM_CALLED = (
    "ray._private.runtime_env.conda",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.pip",
    "ray._private.runtime_env.uv",
    "ray._private.thirdparty.tabulate.tabulate",
)
#: Ray's serializers for objects of other libraries (pydantic, starlette, arrow), which it imports for them if they are
#: installed: 4 MB of each worker. What travels through Ray here is none of theirs.
_SERIALIZERS = "ray.util.serialization_addons"


_LOCK = threading.Lock()


class Later(types.ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(loaded(self), name)


class Called(types.ModuleType):
    """A module of functions, imported when one of them is called, or when something else of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not name[0].islower():  # a class, or a constant
            return getattr(loaded(self), name)
        return lambda *args, **options: getattr(loaded(self), name)(*args, **options)


def loaded(module: types.ModuleType) -> types.ModuleType:
    """What a module stands in for, imported at the first call, whichever thread it comes from."""
    with _LOCK:  # or one thread would take away what another has imported
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
    return importlib.import_module(module.__name__)


def no_serializers() -> types.ModuleType:
    """A module in the place of `_SERIALIZERS`."""
    module: Any = types.ModuleType(_SERIALIZERS)
    module.apply = lambda context: None
    return module  # type: ignore[no-any-return]


def main() -> None:
    program, *options = sys.argv[1:]
    folder = Path(program).parent
    if any(option.startswith(_ENVIRONMENT) for option in options):
        os.execv(sys.executable, [sys.executable, str(folder / _SETUP), *sys.argv[1:]])
    sys.argv = [program, *(option for option in options if not option.startswith(_LANGUAGE))]
    sys.path[0] = str(folder)
    sys.modules.update({name: Later(name) for name in _SELDOM.split() if name not in sys.modules})
    sys.modules.update({name: Called(name) for name in _SELDOM_CALLED})
    sys.modules[_SERIALIZERS] = no_serializers()
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
