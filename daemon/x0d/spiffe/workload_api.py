"""The SPIFFE Workload API on the wire: its messages, its methods, its header.

The public workload.proto has no package, so its messages are global names, and a second copy in protobuf's default
pool ends the process ("duplicate symbol").  Ours therefore lives in a pool of its own, described here in code; only the
messages of X.509 are in it.  Callers get plain values: ``SvidUpdate`` and ``BundlesUpdate`` decode from bytes and
encode to them, so gRPC carries bytes and no library's serialiser decides what a malformed message does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from x0d.errors import InvalidInput

SERVICE: Final = "SpiffeWorkloadAPI"
FETCH_X509_SVID: Final = f"/{SERVICE}/FetchX509SVID"
"""X509SVIDRequest -> stream of X509SVIDResponse."""
FETCH_X509_BUNDLES: Final = f"/{SERVICE}/FetchX509Bundles"
"""X509BundlesRequest -> stream of X509BundlesResponse."""
SECURITY_HEADER: Final = ("workload.spiffe.io", "true")
"""Each call carries it, so that a browser or a proxy cannot be made to call (Workload API section 5.1)."""
EMPTY_REQUEST: Final = b""
"""Both requests have no fields."""

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, int, bool], ...]]] = {
    "X509SVIDRequest": (),
    "X509SVID": (
        ("spiffe_id", 1, _Field.TYPE_STRING, False),
        ("x509_svid", 2, _Field.TYPE_BYTES, False),
        ("x509_svid_key", 3, _Field.TYPE_BYTES, False),
        ("bundle", 4, _Field.TYPE_BYTES, False),
        ("hint", 5, _Field.TYPE_STRING, False),
    ),
    "X509SVIDResponse": (("crl", 2, _Field.TYPE_BYTES, True),),
    "X509BundlesRequest": (),
    "X509BundlesResponse": (("crl", 1, _Field.TYPE_BYTES, True),),
}
"""Name, number, type and whether it repeats; messages and maps are added in ``_file``."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    """Describe workload.proto, as far as it speaks of X.509."""
    described = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    by_name = {}
    for name, fields in _MESSAGES.items():
        by_name[name] = described.message_type.add(name=name)
        for label, number, kind, repeats in fields:
            _add_field(by_name[name], label, number, kind, repeats=repeats)
    _add_field(by_name["X509SVIDResponse"], "svids", 1, _Field.TYPE_MESSAGE, repeats=True, of=".X509SVID")
    _add_map(by_name["X509SVIDResponse"], "federated_bundles", 3, "FederatedBundlesEntry")
    _add_map(by_name["X509BundlesResponse"], "bundles", 2, "BundlesEntry")
    return described


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: int, *, repeats: bool, of: str | None = None
) -> None:
    label = _Field.LABEL_REPEATED if repeats else _Field.LABEL_OPTIONAL
    added = message.field.add(name=name, number=number, label=label)
    added.type = kind  # type: ignore[assignment]  # the table holds the enum's numbers
    if of is not None:
        added.type_name = of


def _add_map(message: descriptor_pb2.DescriptorProto, name: str, number: int, entry_name: str) -> None:
    """Add a field of type map<string, bytes>: a repeated message of key and value, marked as a map."""
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _Field.TYPE_STRING, repeats=False)
    _add_field(entry, "value", 2, _Field.TYPE_BYTES, repeats=False)
    _add_field(message, name, number, _Field.TYPE_MESSAGE, repeats=True, of=f".{message.name}.{entry_name}")


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())


def _message(name: str) -> type[Any]:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


X509SVIDRequest: Final = _message("X509SVIDRequest")
X509SVID: Final = _message("X509SVID")
X509SVIDResponse: Final = _message("X509SVIDResponse")
X509BundlesRequest: Final = _message("X509BundlesRequest")
X509BundlesResponse: Final = _message("X509BundlesResponse")


@dataclass(frozen=True, slots=True)
class WorkloadSvid:
    """One SVID as it is delivered; nothing of it is checked."""

    spiffe_id: str
    certificates: bytes
    """DER, leaf first, without separators."""
    key: bytes = field(repr=False)
    """PKCS#8 DER."""
    bundle: bytes
    """DER authorities of its trust domain, without separators."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SvidUpdate:
    """One message of FetchX509SVID."""

    svids: tuple[WorkloadSvid, ...]
    federated: Mapping[str, bytes] = field(default_factory=dict)
    """DER authorities of foreign trust domains, by ``spiffe://td``."""

    @classmethod
    def decode(cls, data: bytes) -> "SvidUpdate":
        """Read a message.

        Raises:
            InvalidInput: it is none.
        """
        message = _decode(X509SVIDResponse, data)
        svids = (WorkloadSvid(s.spiffe_id, s.x509_svid, s.x509_svid_key, s.bundle, s.hint) for s in message.svids)
        return cls(tuple(svids), dict(message.federated_bundles))

    def encode(self) -> bytes:
        """Write the message."""
        svids = [
            X509SVID(
                spiffe_id=svid.spiffe_id,
                x509_svid=svid.certificates,
                x509_svid_key=svid.key,
                bundle=svid.bundle,
                hint=svid.hint,
            )
            for svid in self.svids
        ]
        message: Message = X509SVIDResponse(svids=svids, federated_bundles=self.federated)
        return message.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class BundlesUpdate:
    """One message of FetchX509Bundles."""

    bundles: Mapping[str, bytes]
    """DER authorities by ``spiffe://td``."""

    @classmethod
    def decode(cls, data: bytes) -> "BundlesUpdate":
        """Read a message.

        Raises:
            InvalidInput: it is none.
        """
        return cls(dict(_decode(X509BundlesResponse, data).bundles))

    def encode(self) -> bytes:
        """Write the message."""
        message: Message = X509BundlesResponse(bundles=self.bundles)
        return message.SerializeToString(deterministic=True)


def _decode(kind: type[Any], data: bytes) -> Any:  # noqa: ANN401  protobuf makes these classes at run time
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as failure:
        raise InvalidInput(f"{len(data)} bytes are no {kind.DESCRIPTOR.name}") from failure
    return message
