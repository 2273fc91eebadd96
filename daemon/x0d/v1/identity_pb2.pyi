from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetIdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetIdentityResponse(_message.Message):
    __slots__ = ("spiffe_id", "source", "state", "reason", "serial", "not_before_unix_ms", "not_after_unix_ms", "renewal_due_unix_ms", "workload_socket", "workload_connected", "bundle_generation", "updates", "updates_rejected", "require_pq", "bundles", "peers", "issuer", "renewal_endpoint", "outage_hurts_unix_ms", "bindings")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_DUE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_SOCKET_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_PQ_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_HURTS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    source: str
    state: str
    reason: str
    serial: str
    not_before_unix_ms: int
    not_after_unix_ms: int
    renewal_due_unix_ms: int
    workload_socket: str
    workload_connected: bool
    bundle_generation: int
    updates: int
    updates_rejected: int
    require_pq: bool
    bundles: _containers.RepeatedCompositeFieldContainer[TrustBundle]
    peers: _containers.RepeatedCompositeFieldContainer[PeerIdentity]
    issuer: Issuer
    renewal_endpoint: str
    outage_hurts_unix_ms: int
    bindings: _containers.RepeatedCompositeFieldContainer[RoleBinding]
    def __init__(self, spiffe_id: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., serial: _Optional[str] = ..., not_before_unix_ms: _Optional[int] = ..., not_after_unix_ms: _Optional[int] = ..., renewal_due_unix_ms: _Optional[int] = ..., workload_socket: _Optional[str] = ..., workload_connected: _Optional[bool] = ..., bundle_generation: _Optional[int] = ..., updates: _Optional[int] = ..., updates_rejected: _Optional[int] = ..., require_pq: _Optional[bool] = ..., bundles: _Optional[_Iterable[_Union[TrustBundle, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[PeerIdentity, _Mapping]]] = ..., issuer: _Optional[_Union[Issuer, _Mapping]] = ..., renewal_endpoint: _Optional[str] = ..., outage_hurts_unix_ms: _Optional[int] = ..., bindings: _Optional[_Iterable[_Union[RoleBinding, _Mapping]]] = ...) -> None: ...

class TrustBundle(_message.Message):
    __slots__ = ("trust_domain", "own", "authorities", "not_after_unix_ms")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    own: bool
    authorities: int
    not_after_unix_ms: int
    def __init__(self, trust_domain: _Optional[str] = ..., own: _Optional[bool] = ..., authorities: _Optional[int] = ..., not_after_unix_ms: _Optional[int] = ...) -> None: ...

class PeerIdentity(_message.Message):
    __slots__ = ("node", "spiffe_id", "link", "state", "reason", "group", "tls_version", "post_quantum", "svid_not_after_unix_ms", "key_age_s")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TLS_VERSION_FIELD_NUMBER: _ClassVar[int]
    POST_QUANTUM_FIELD_NUMBER: _ClassVar[int]
    SVID_NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_AGE_S_FIELD_NUMBER: _ClassVar[int]
    node: str
    spiffe_id: str
    link: str
    state: str
    reason: str
    group: str
    tls_version: str
    post_quantum: bool
    svid_not_after_unix_ms: int
    key_age_s: float
    def __init__(self, node: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., link: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., group: _Optional[str] = ..., tls_version: _Optional[str] = ..., post_quantum: _Optional[bool] = ..., svid_not_after_unix_ms: _Optional[int] = ..., key_age_s: _Optional[float] = ...) -> None: ...

class Issuer(_message.Message):
    __slots__ = ("root_sha256", "root_not_after_unix_ms", "open_tokens", "join_open")
    ROOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROOT_NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    OPEN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    JOIN_OPEN_FIELD_NUMBER: _ClassVar[int]
    root_sha256: str
    root_not_after_unix_ms: int
    open_tokens: int
    join_open: bool
    def __init__(self, root_sha256: _Optional[str] = ..., root_not_after_unix_ms: _Optional[int] = ..., open_tokens: _Optional[int] = ..., join_open: _Optional[bool] = ...) -> None: ...

class RoleBinding(_message.Message):
    __slots__ = ("role", "id", "user", "group")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    role: str
    id: str
    user: str
    group: str
    def __init__(self, role: _Optional[str] = ..., id: _Optional[str] = ..., user: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class CheckIdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckIdentityResponse(_message.Message):
    __slots__ = ("checks",)
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[IdentityCheck]
    def __init__(self, checks: _Optional[_Iterable[_Union[IdentityCheck, _Mapping]]] = ...) -> None: ...

class IdentityCheck(_message.Message):
    __slots__ = ("name", "outcome", "detail", "remedy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcome: str
    detail: str
    remedy: str
    def __init__(self, name: _Optional[str] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("spiffe_id", "address")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    address: str
    def __init__(self, spiffe_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "spiffe_id", "address", "expires_at_unix_ms")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    token: str
    spiffe_id: str
    address: str
    expires_at_unix_ms: int
    def __init__(self, token: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., address: _Optional[str] = ..., expires_at_unix_ms: _Optional[int] = ...) -> None: ...

class OpenToken(_message.Message):
    __slots__ = ("id", "spiffe_id", "expires_at_unix_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    spiffe_id: str
    expires_at_unix_ms: int
    def __init__(self, id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., expires_at_unix_ms: _Optional[int] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[OpenToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[OpenToken, _Mapping]]] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("which",)
    WHICH_FIELD_NUMBER: _ClassVar[int]
    which: str
    def __init__(self, which: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ("revoked",)
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    revoked: _containers.RepeatedCompositeFieldContainer[OpenToken]
    def __init__(self, revoked: _Optional[_Iterable[_Union[OpenToken, _Mapping]]] = ...) -> None: ...

class ListDescriptorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDescriptorsResponse(_message.Message):
    __slots__ = ("descriptors",)
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    descriptors: _containers.RepeatedCompositeFieldContainer[Descriptor]
    def __init__(self, descriptors: _Optional[_Iterable[_Union[Descriptor, _Mapping]]] = ...) -> None: ...

class Descriptor(_message.Message):
    __slots__ = ("spiffe_id", "address", "key_id", "boot_id", "signed_at_unix_ms", "received_from", "raw")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FROM_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    address: str
    key_id: str
    boot_id: str
    signed_at_unix_ms: int
    received_from: str
    raw: bytes
    def __init__(self, spiffe_id: _Optional[str] = ..., address: _Optional[str] = ..., key_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., signed_at_unix_ms: _Optional[int] = ..., received_from: _Optional[str] = ..., raw: _Optional[bytes] = ...) -> None: ...
