"""The address of their pod, given to Python programs in containers.

Python imports this module at start because its directory is in PYTHONPATH. All pods of a machine share its loopback
interface, so a server that binds to every address would take the port of all pods: here it binds to POD_IP instead,
as it would do in a container with an interface of its own. A `sitecustomize` of the program's own still runs.
"""

import importlib.machinery
import importlib.util
import os
import socket
import sys

_EVERY = ("", "0.0.0.0", "::")
_ip = os.environ.get("POD_IP")
_bind = socket.socket.bind


def bind(self, address):  # type: ignore[no-untyped-def]
    if _ip and isinstance(address, tuple) and address[0] in _EVERY:
        if self.family == socket.AF_INET:
            address = (_ip, *address[1:])
        elif self.family == socket.AF_INET6:
            # A socket for both families takes an IPv4 address in its mapped form.
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            address = (f"::ffff:{_ip}", *address[1:])
    return _bind(self, address)


def _run_own() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [p for p in sys.path if os.path.abspath(p) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", paths)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if _ip:
    socket.socket.bind = bind  # type: ignore[method-assign]
_run_own()
