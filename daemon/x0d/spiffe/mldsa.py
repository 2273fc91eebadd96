"""What post-quantum needs of the TLS library, tried; and this node's ML-DSA-65 key.

The key is made once, kept in a private file, and used for descriptors alone.

The file holds the seed (FIPS 204: 32 bytes, of which the key follows) after a line that says what it is.  Losing it is
no harm: the next descriptor binds a new key to the same ID.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from x0d.errors import NotSupported, StorageFailed
from x0d.spiffe.private_file import make_private_directory, read_private, write_private

FILE_NAME: Final = "mldsa65.key"
FEATURE: Final = "identity.pqc_beacons"

_HEAD: Final = b"x0d ML-DSA-65 seed\n"
_SEED_BYTES: Final = 32


def probe(make: Callable[[], MLDSA65PrivateKey] = MLDSA65PrivateKey.generate) -> None:
    """Try ML-DSA-65 once, a few hundred microseconds.

    Raises:
        NotSupported: the OpenSSL that `cryptography` was built with lacks it.
    """
    text = b"x0d"
    try:
        key = make()
        key.public_key().verify(key.sign(text, context=text), text, context=text)
    except (UnsupportedAlgorithm, InvalidSignature) as error:
        version = backend.openssl_version_text()
        raise NotSupported(FEATURE, f"it signs with ML-DSA-65, which OpenSSL has from 3.5 on: {version}") from error


def probe_key_exchange(make: Callable[[], MLKEM768PrivateKey] = MLKEM768PrivateKey.generate) -> None:
    """Try ML-KEM-768, which X25519MLKEM768 is made of; the connector's TLS is of the same library.

    Raises:
        NotSupported: the OpenSSL that `cryptography` was built with lacks it.
    """
    try:
        shared, sealed = (key := make()).public_key().encapsulate()
        agreed = key.decapsulate(sealed) == shared
    except UnsupportedAlgorithm as error:
        version = backend.openssl_version_text()
        raise NotSupported("identity.require_pq", f"OpenSSL has ML-KEM-768 from 3.5 on: {version}") from error
    if not agreed:
        raise NotSupported("identity.require_pq", "this OpenSSL's ML-KEM-768 does not agree with itself")


def open_key(directory: Path) -> MLDSA65PrivateKey:
    """Read the key, or make it where there is none; the directory is made if it is absent.

    Raises:
        StorageFailed: the file cannot be read or written, is damaged, or others may read it.
    """
    path = directory / FILE_NAME
    make_private_directory(directory)
    data = read_private(path)
    if data is None:
        key = MLDSA65PrivateKey.generate()
        write_private(path, _HEAD + key.private_bytes_raw())
        return key
    seed = data.removeprefix(_HEAD)
    if not data.startswith(_HEAD) or len(seed) != _SEED_BYTES:
        raise StorageFailed(f"{path} is damaged; remove it, and a new key is made")
    return MLDSA65PrivateKey.from_seed_bytes(seed)


def is_signed(public_key: bytes, signature: bytes, text: bytes, context: bytes) -> bool:
    """Whether a signature is that of this key over this text; also False for bytes that are no key."""
    try:
        MLDSA65PublicKey.from_public_bytes(public_key).verify(signature, text, context=context)
    except (InvalidSignature, ValueError):
        return False
    return True
