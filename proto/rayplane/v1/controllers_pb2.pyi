from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WhyRequest(_message.Message):
    __slots__ = ("resource", "namespace", "name")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    resource: str
    namespace: str
    name: str
    def __init__(self, resource: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("resource", "object", "kind", "resource_version")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    resource: str
    object: str
    kind: str
    resource_version: str
    def __init__(self, resource: _Optional[str] = ..., object: _Optional[str] = ..., kind: _Optional[str] = ..., resource_version: _Optional[str] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("verb", "resource", "object", "resource_version", "error")
    VERB_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    verb: str
    resource: str
    object: str
    resource_version: str
    error: str
    def __init__(self, verb: _Optional[str] = ..., resource: _Optional[str] = ..., object: _Optional[str] = ..., resource_version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Look(_message.Message):
    __slots__ = ("controller", "key", "at", "seconds", "times", "changes", "changes_left_out", "writes", "writes_left_out", "error", "requeue_after_s")
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    WRITES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REQUEUE_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    controller: str
    key: str
    at: str
    seconds: float
    times: int
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    changes_left_out: int
    writes: _containers.RepeatedCompositeFieldContainer[Write]
    writes_left_out: int
    error: str
    requeue_after_s: float
    def __init__(self, controller: _Optional[str] = ..., key: _Optional[str] = ..., at: _Optional[str] = ..., seconds: _Optional[float] = ..., times: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., changes_left_out: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[Write, _Mapping]]] = ..., writes_left_out: _Optional[int] = ..., error: _Optional[str] = ..., requeue_after_s: _Optional[float] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("controller", "key", "looked", "queued_s", "working_s", "due_in_s", "held_for_s", "failures")
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LOOKED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_S_FIELD_NUMBER: _ClassVar[int]
    WORKING_S_FIELD_NUMBER: _ClassVar[int]
    DUE_IN_S_FIELD_NUMBER: _ClassVar[int]
    HELD_FOR_S_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    controller: str
    key: str
    looked: bool
    queued_s: float
    working_s: float
    due_in_s: float
    held_for_s: float
    failures: int
    def __init__(self, controller: _Optional[str] = ..., key: _Optional[str] = ..., looked: _Optional[bool] = ..., queued_s: _Optional[float] = ..., working_s: _Optional[float] = ..., due_in_s: _Optional[float] = ..., held_for_s: _Optional[float] = ..., failures: _Optional[int] = ...) -> None: ...

class WhyResponse(_message.Message):
    __slots__ = ("replica", "leads", "since", "looks", "forgotten", "standings", "watchers", "cached")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    STANDINGS_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    replica: str
    leads: bool
    since: str
    looks: _containers.RepeatedCompositeFieldContainer[Look]
    forgotten: bool
    standings: _containers.RepeatedCompositeFieldContainer[Standing]
    watchers: _containers.RepeatedScalarFieldContainer[str]
    cached: str
    def __init__(self, replica: _Optional[str] = ..., leads: _Optional[bool] = ..., since: _Optional[str] = ..., looks: _Optional[_Iterable[_Union[Look, _Mapping]]] = ..., forgotten: _Optional[bool] = ..., standings: _Optional[_Iterable[_Union[Standing, _Mapping]]] = ..., watchers: _Optional[_Iterable[str]] = ..., cached: _Optional[str] = ...) -> None: ...
