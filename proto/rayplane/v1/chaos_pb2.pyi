import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TargetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChaosTarget(_message.Message):
    __slots__ = ("target", "names")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    target: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, target: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class ChaosVerb(_message.Message):
    __slots__ = ("verb", "fields", "refused")
    VERB_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    verb: str
    fields: _containers.RepeatedScalarFieldContainer[str]
    refused: str
    def __init__(self, verb: _Optional[str] = ..., fields: _Optional[_Iterable[str]] = ..., refused: _Optional[str] = ...) -> None: ...

class TargetsResponse(_message.Message):
    __slots__ = ("targets", "verbs")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    VERBS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[ChaosTarget]
    verbs: _containers.RepeatedCompositeFieldContainer[ChaosVerb]
    def __init__(self, targets: _Optional[_Iterable[_Union[ChaosTarget, _Mapping]]] = ..., verbs: _Optional[_Iterable[_Union[ChaosVerb, _Mapping]]] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("fault", "by")
    FAULT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    fault: str
    by: str
    def __init__(self, fault: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class ActiveFault(_message.Message):
    __slots__ = ("id", "fault", "hit", "by", "began", "ends", "failed")
    ID_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    id: str
    fault: str
    hit: _containers.RepeatedScalarFieldContainer[str]
    by: str
    began: _timestamp_pb2.Timestamp
    ends: _timestamp_pb2.Timestamp
    failed: str
    def __init__(self, id: _Optional[str] = ..., fault: _Optional[str] = ..., hit: _Optional[_Iterable[str]] = ..., by: _Optional[str] = ..., began: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ends: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failed: _Optional[str] = ...) -> None: ...

class EndRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class EndResponse(_message.Message):
    __slots__ = ("fault",)
    FAULT_FIELD_NUMBER: _ClassVar[int]
    fault: ActiveFault
    def __init__(self, fault: _Optional[_Union[ActiveFault, _Mapping]] = ...) -> None: ...

class ListFaultsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFaultsResponse(_message.Message):
    __slots__ = ("faults",)
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedCompositeFieldContainer[ActiveFault]
    def __init__(self, faults: _Optional[_Iterable[_Union[ActiveFault, _Mapping]]] = ...) -> None: ...

class HealRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealResponse(_message.Message):
    __slots__ = ("healed", "left")
    HEALED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    healed: _containers.RepeatedCompositeFieldContainer[ActiveFault]
    left: _containers.RepeatedCompositeFieldContainer[ActiveFault]
    def __init__(self, healed: _Optional[_Iterable[_Union[ActiveFault, _Mapping]]] = ..., left: _Optional[_Iterable[_Union[ActiveFault, _Mapping]]] = ...) -> None: ...

class TrialRequest(_message.Message):
    __slots__ = ("scenario", "seed", "keep", "by", "groups", "uid", "extra", "id", "after", "record", "end")
    class ExtraEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ExtraValues
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ExtraValues, _Mapping]] = ...) -> None: ...
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    scenario: str
    seed: int
    keep: bool
    by: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    uid: str
    extra: _containers.MessageMap[str, ExtraValues]
    id: str
    after: int
    record: bool
    end: bool
    def __init__(self, scenario: _Optional[str] = ..., seed: _Optional[int] = ..., keep: _Optional[bool] = ..., by: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., uid: _Optional[str] = ..., extra: _Optional[_Mapping[str, ExtraValues]] = ..., id: _Optional[str] = ..., after: _Optional[int] = ..., record: _Optional[bool] = ..., end: _Optional[bool] = ...) -> None: ...

class ExtraValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class TrialResponse(_message.Message):
    __slots__ = ("event", "verdict", "recording", "number")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    RECORDING_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    event: str
    verdict: str
    recording: bytes
    number: int
    def __init__(self, event: _Optional[str] = ..., verdict: _Optional[str] = ..., recording: _Optional[bytes] = ..., number: _Optional[int] = ...) -> None: ...
