from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgreeKeyRequest(_message.Message):
    __slots__ = ("boot_id", "nonce")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    boot_id: int
    nonce: bytes
    def __init__(self, boot_id: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class AgreeKeyResponse(_message.Message):
    __slots__ = ("boot_id", "nonce")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    boot_id: int
    nonce: bytes
    def __init__(self, boot_id: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class ExchangeDescriptorsRequest(_message.Message):
    __slots__ = ("held", "descriptors")
    HELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedScalarFieldContainer[bytes]
    descriptors: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, held: _Optional[_Iterable[bytes]] = ..., descriptors: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ExchangeDescriptorsResponse(_message.Message):
    __slots__ = ("descriptors", "wanted")
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    descriptors: _containers.RepeatedScalarFieldContainer[bytes]
    wanted: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, descriptors: _Optional[_Iterable[bytes]] = ..., wanted: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RenewSvidRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class RenewSvidResponse(_message.Message):
    __slots__ = ("svid",)
    SVID_FIELD_NUMBER: _ClassVar[int]
    svid: SignedSvid
    def __init__(self, svid: _Optional[_Union[SignedSvid, _Mapping]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("secret", "spiffe_id", "csr")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    spiffe_id: str
    csr: bytes
    def __init__(self, secret: _Optional[bytes] = ..., spiffe_id: _Optional[str] = ..., csr: _Optional[bytes] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("svid", "renewal_endpoint", "issuer_id")
    SVID_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_ID_FIELD_NUMBER: _ClassVar[int]
    svid: SignedSvid
    renewal_endpoint: str
    issuer_id: str
    def __init__(self, svid: _Optional[_Union[SignedSvid, _Mapping]] = ..., renewal_endpoint: _Optional[str] = ..., issuer_id: _Optional[str] = ...) -> None: ...

class SignedSvid(_message.Message):
    __slots__ = ("chain", "bundle", "federated_bundles")
    class FederatedBundlesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    bundle: bytes
    federated_bundles: _containers.ScalarMap[str, bytes]
    def __init__(self, chain: _Optional[bytes] = ..., bundle: _Optional[bytes] = ..., federated_bundles: _Optional[_Mapping[str, bytes]] = ...) -> None: ...
