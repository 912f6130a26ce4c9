from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VolumeFileKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE: _ClassVar[VolumeFileKind]
    DIRECTORY: _ClassVar[VolumeFileKind]
    SYMLINK: _ClassVar[VolumeFileKind]
FILE: VolumeFileKind
DIRECTORY: VolumeFileKind
SYMLINK: VolumeFileKind

class VolumeRef(_message.Message):
    __slots__ = ("node", "volume")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    node: str
    volume: str
    def __init__(self, node: _Optional[str] = ..., volume: _Optional[str] = ...) -> None: ...

class VolumeVersion(_message.Message):
    __slots__ = ("epoch", "generation")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class VolumeFile(_message.Message):
    __slots__ = ("path", "kind", "mode", "size", "block_bytes", "blocks", "target", "uid", "gid")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    kind: VolumeFileKind
    mode: int
    size: int
    block_bytes: int
    blocks: _containers.RepeatedScalarFieldContainer[bytes]
    target: bytes
    uid: int
    gid: int
    def __init__(self, path: _Optional[bytes] = ..., kind: _Optional[_Union[VolumeFileKind, str]] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., block_bytes: _Optional[int] = ..., blocks: _Optional[_Iterable[bytes]] = ..., target: _Optional[bytes] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class CreateReplicaRequest(_message.Message):
    __slots__ = ("ref", "capacity_bytes", "again")
    REF_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    capacity_bytes: int
    again: bool
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., capacity_bytes: _Optional[int] = ..., again: _Optional[bool] = ...) -> None: ...

class CreateReplicaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResizeReplicaRequest(_message.Message):
    __slots__ = ("ref", "capacity_bytes")
    REF_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    capacity_bytes: int
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., capacity_bytes: _Optional[int] = ...) -> None: ...

class ResizeReplicaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteReplicaRequest(_message.Message):
    __slots__ = ("ref", "epoch")
    REF_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    epoch: int
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., epoch: _Optional[int] = ...) -> None: ...

class DeleteReplicaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("ref", "epoch", "writer", "knows_filling")
    REF_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    KNOWS_FILLING_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    epoch: int
    writer: str
    knows_filling: bool
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., epoch: _Optional[int] = ..., writer: _Optional[str] = ..., knows_filling: _Optional[bool] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("committed", "filling")
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    committed: VolumeVersion
    filling: bool
    def __init__(self, committed: _Optional[_Union[VolumeVersion, _Mapping]] = ..., filling: _Optional[bool] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("ref", "epoch", "version", "blocks", "files", "removed")
    REF_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    epoch: int
    version: VolumeVersion
    blocks: _containers.RepeatedScalarFieldContainer[bytes]
    files: _containers.RepeatedCompositeFieldContainer[VolumeFile]
    removed: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., epoch: _Optional[int] = ..., version: _Optional[_Union[VolumeVersion, _Mapping]] = ..., blocks: _Optional[_Iterable[bytes]] = ..., files: _Optional[_Iterable[_Union[VolumeFile, _Mapping]]] = ..., removed: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("ref", "epoch", "base", "version")
    REF_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    epoch: int
    base: VolumeVersion
    version: VolumeVersion
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., epoch: _Optional[int] = ..., base: _Optional[_Union[VolumeVersion, _Mapping]] = ..., version: _Optional[_Union[VolumeVersion, _Mapping]] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InventoryRequest(_message.Message):
    __slots__ = ("ref", "files", "after", "knows_filling")
    REF_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KNOWS_FILLING_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    files: bool
    after: bytes
    knows_filling: bool
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., files: _Optional[bool] = ..., after: _Optional[bytes] = ..., knows_filling: _Optional[bool] = ...) -> None: ...

class InventoryResponse(_message.Message):
    __slots__ = ("committed", "promised", "writer", "capacity_bytes", "used_bytes", "files", "more", "filling")
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    committed: VolumeVersion
    promised: int
    writer: str
    capacity_bytes: int
    used_bytes: int
    files: _containers.RepeatedCompositeFieldContainer[VolumeFile]
    more: bool
    filling: bool
    def __init__(self, committed: _Optional[_Union[VolumeVersion, _Mapping]] = ..., promised: _Optional[int] = ..., writer: _Optional[str] = ..., capacity_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., files: _Optional[_Iterable[_Union[VolumeFile, _Mapping]]] = ..., more: _Optional[bool] = ..., filling: _Optional[bool] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("ref", "hashes")
    REF_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    ref: VolumeRef
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ref: _Optional[_Union[VolumeRef, _Mapping]] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, blocks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class NodeCapacityRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class NodeCapacityResponse(_message.Message):
    __slots__ = ("total_bytes", "free_bytes", "knows_filling")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KNOWS_FILLING_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    free_bytes: int
    knows_filling: bool
    def __init__(self, total_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., knows_filling: _Optional[bool] = ...) -> None: ...
