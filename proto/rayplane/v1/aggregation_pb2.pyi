from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PurgeRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class PurgeResponse(_message.Message):
    __slots__ = ("stale", "objects", "deleting", "finalizers", "failures")
    class ObjectsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DeletingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FinalizersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STALE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DELETING_FIELD_NUMBER: _ClassVar[int]
    FINALIZERS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    stale: _containers.RepeatedScalarFieldContainer[str]
    objects: _containers.ScalarMap[str, int]
    deleting: _containers.ScalarMap[str, int]
    finalizers: _containers.ScalarMap[str, int]
    failures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stale: _Optional[_Iterable[str]] = ..., objects: _Optional[_Mapping[str, int]] = ..., deleting: _Optional[_Mapping[str, int]] = ..., finalizers: _Optional[_Mapping[str, int]] = ..., failures: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("group", "versions", "namespace", "resource", "name", "subresource", "query", "kind")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBRESOURCE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    group: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    namespace: str
    resource: str
    name: str
    subresource: str
    query: str
    kind: str
    def __init__(self, group: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., namespace: _Optional[str] = ..., resource: _Optional[str] = ..., name: _Optional[str] = ..., subresource: _Optional[str] = ..., query: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class PatchAggregatedRequest(_message.Message):
    __slots__ = ("group", "versions", "namespace", "resource", "name", "subresource", "kind", "patch")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBRESOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    group: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    namespace: str
    resource: str
    name: str
    subresource: str
    kind: str
    patch: bytes
    def __init__(self, group: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., namespace: _Optional[str] = ..., resource: _Optional[str] = ..., name: _Optional[str] = ..., subresource: _Optional[str] = ..., kind: _Optional[str] = ..., patch: _Optional[bytes] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("served", "json")
    SERVED_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    served: bool
    json: bytes
    def __init__(self, served: _Optional[bool] = ..., json: _Optional[bytes] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("deleted", "failures")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    failures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deleted: _Optional[int] = ..., failures: _Optional[_Iterable[str]] = ...) -> None: ...
