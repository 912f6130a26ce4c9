from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class NodeVerdict(_message.Message):
    __slots__ = ("node", "plugin", "reasons", "resolvable", "scores", "total")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    RESOLVABLE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    node: str
    plugin: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    resolvable: bool
    scores: _containers.ScalarMap[str, float]
    total: float
    def __init__(self, node: _Optional[str] = ..., plugin: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., resolvable: _Optional[bool] = ..., scores: _Optional[_Mapping[str, float]] = ..., total: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("time", "times", "node", "message", "nominated", "nodes", "summary")
    TIME_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NOMINATED_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    time: str
    times: int
    node: str
    message: str
    nominated: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeVerdict]
    summary: bool
    def __init__(self, time: _Optional[str] = ..., times: _Optional[int] = ..., node: _Optional[str] = ..., message: _Optional[str] = ..., nominated: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeVerdict, _Mapping]]] = ..., summary: _Optional[bool] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("queue", "attempts", "node", "waits_for", "past", "now")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    PAST_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    queue: str
    attempts: int
    node: str
    waits_for: _containers.RepeatedScalarFieldContainer[str]
    past: _containers.RepeatedCompositeFieldContainer[Decision]
    now: Decision
    def __init__(self, queue: _Optional[str] = ..., attempts: _Optional[int] = ..., node: _Optional[str] = ..., waits_for: _Optional[_Iterable[str]] = ..., past: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., now: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...
