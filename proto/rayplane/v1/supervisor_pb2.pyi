from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TopologyRequest(_message.Message):
    __slots__ = ("host_sockets", "builds", "machines")
    HOST_SOCKETS_FIELD_NUMBER: _ClassVar[int]
    BUILDS_FIELD_NUMBER: _ClassVar[int]
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    host_sockets: bool
    builds: bool
    machines: bool
    def __init__(self, host_sockets: _Optional[bool] = ..., builds: _Optional[bool] = ..., machines: _Optional[bool] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("name", "role", "machine", "running", "pid", "starts", "ports", "failures", "reason", "build", "runs_in")
    class PortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    RUNS_IN_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    machine: str
    running: bool
    pid: int
    starts: int
    ports: _containers.ScalarMap[str, int]
    failures: int
    reason: str
    build: str
    runs_in: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., machine: _Optional[str] = ..., running: _Optional[bool] = ..., pid: _Optional[int] = ..., starts: _Optional[int] = ..., ports: _Optional[_Mapping[str, int]] = ..., failures: _Optional[int] = ..., reason: _Optional[str] = ..., build: _Optional[str] = ..., runs_in: _Optional[str] = ...) -> None: ...

class HostSocket(_message.Message):
    __slots__ = ("owner", "address", "speaks")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SPEAKS_FIELD_NUMBER: _ClassVar[int]
    owner: str
    address: str
    speaks: str
    def __init__(self, owner: _Optional[str] = ..., address: _Optional[str] = ..., speaks: _Optional[str] = ...) -> None: ...

class MachineStatus(_message.Message):
    __slots__ = ("address", "resources", "drained", "head")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    address: str
    resources: _containers.ScalarMap[str, float]
    drained: bool
    head: bool
    def __init__(self, address: _Optional[str] = ..., resources: _Optional[_Mapping[str, float]] = ..., drained: _Optional[bool] = ..., head: _Optional[bool] = ...) -> None: ...

class TopologyResponse(_message.Message):
    __slots__ = ("instances", "host_sockets", "machines")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    HOST_SOCKETS_FIELD_NUMBER: _ClassVar[int]
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatus]
    host_sockets: _containers.RepeatedCompositeFieldContainer[HostSocket]
    machines: _containers.RepeatedCompositeFieldContainer[MachineStatus]
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceStatus, _Mapping]]] = ..., host_sockets: _Optional[_Iterable[_Union[HostSocket, _Mapping]]] = ..., machines: _Optional[_Iterable[_Union[MachineStatus, _Mapping]]] = ...) -> None: ...

class AddRequest(_message.Message):
    __slots__ = ("role", "name", "kubelet_config", "runtime")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KUBELET_CONFIG_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    kubelet_config: str
    runtime: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., kubelet_config: _Optional[str] = ..., runtime: _Optional[str] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("role", "name")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("name", "python", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    python: str
    version: str
    def __init__(self, name: _Optional[str] = ..., python: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ChangeResponse(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("machine", "undo")
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    machine: str
    undo: bool
    def __init__(self, machine: _Optional[str] = ..., undo: _Optional[bool] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("machines",)
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    machines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, machines: _Optional[_Iterable[str]] = ...) -> None: ...

class KillRequest(_message.Message):
    __slots__ = ("name", "signal")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    signal: str
    def __init__(self, name: _Optional[str] = ..., signal: _Optional[str] = ...) -> None: ...

class KillResponse(_message.Message):
    __slots__ = ("name", "pid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    name: str
    pid: int
    def __init__(self, name: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class LoseMachineRequest(_message.Message):
    __slots__ = ("machine", "for_s", "undo")
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    FOR_S_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    machine: str
    for_s: float
    undo: bool
    def __init__(self, machine: _Optional[str] = ..., for_s: _Optional[float] = ..., undo: _Optional[bool] = ...) -> None: ...

class LoseMachineResponse(_message.Message):
    __slots__ = ("alive",)
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    alive: bool
    def __init__(self, alive: _Optional[bool] = ...) -> None: ...

class HostGroup(_message.Message):
    __slots__ = ("hosts",)
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, hosts: _Optional[_Iterable[str]] = ...) -> None: ...

class HostCut(_message.Message):
    __slots__ = ("sources", "sinks")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedScalarFieldContainer[str]
    sinks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sources: _Optional[_Iterable[str]] = ..., sinks: _Optional[_Iterable[str]] = ...) -> None: ...

class HostTrouble(_message.Message):
    __slots__ = ("name", "clock_ahead_s", "sync_least_s", "stalled", "full", "expires", "expires_in_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLOCK_AHEAD_S_FIELD_NUMBER: _ClassVar[int]
    SYNC_LEAST_S_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    clock_ahead_s: float
    sync_least_s: float
    stalled: bool
    full: bool
    expires: bool
    expires_in_s: float
    def __init__(self, name: _Optional[str] = ..., clock_ahead_s: _Optional[float] = ..., sync_least_s: _Optional[float] = ..., stalled: _Optional[bool] = ..., full: _Optional[bool] = ..., expires: _Optional[bool] = ..., expires_in_s: _Optional[float] = ...) -> None: ...

class DisturbRequest(_message.Message):
    __slots__ = ("groups", "cuts", "slow_s", "reset", "troubles", "standing", "holds_s")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    SLOW_S_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    HOLDS_S_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[HostGroup]
    cuts: _containers.RepeatedCompositeFieldContainer[HostCut]
    slow_s: float
    reset: _containers.RepeatedScalarFieldContainer[str]
    troubles: _containers.RepeatedCompositeFieldContainer[HostTrouble]
    standing: bool
    holds_s: float
    def __init__(self, groups: _Optional[_Iterable[_Union[HostGroup, _Mapping]]] = ..., cuts: _Optional[_Iterable[_Union[HostCut, _Mapping]]] = ..., slow_s: _Optional[float] = ..., reset: _Optional[_Iterable[str]] = ..., troubles: _Optional[_Iterable[_Union[HostTrouble, _Mapping]]] = ..., standing: _Optional[bool] = ..., holds_s: _Optional[float] = ...) -> None: ...

class DisturbResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdvanceRequest(_message.Message):
    __slots__ = ("span_s",)
    SPAN_S_FIELD_NUMBER: _ClassVar[int]
    span_s: float
    def __init__(self, span_s: _Optional[float] = ...) -> None: ...

class AdvanceResponse(_message.Message):
    __slots__ = ("ahead_s",)
    AHEAD_S_FIELD_NUMBER: _ClassVar[int]
    ahead_s: float
    def __init__(self, ahead_s: _Optional[float] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("name", "csr", "front_proxy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    FRONT_PROXY_FIELD_NUMBER: _ClassVar[int]
    name: str
    csr: bytes
    front_proxy: bool
    def __init__(self, name: _Optional[str] = ..., csr: _Optional[bytes] = ..., front_proxy: _Optional[bool] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class SignRequest(_message.Message):
    __slots__ = ("name", "uid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class SignResponse(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class LookRequest(_message.Message):
    __slots__ = ("view", "parameters")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VIEW_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    view: str
    parameters: _containers.ScalarMap[str, str]
    def __init__(self, view: _Optional[str] = ..., parameters: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LookResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...
