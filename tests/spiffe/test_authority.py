"""The issuer's authority: what it signs, what it refuses, and its file."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from x0d import telemetry
from x0d.errors import IdentityRefused, InvalidInput, NoIdentity, StorageFailed
from x0d.identity.leaf import check_leaf
from x0d.identity.model import Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
from x0d.spiffe.authority import FILE_NAME, Authority
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import facts_of, to_pem
from x0d.spiffe.local_svids import IssuedSvids
from x0d.spiffe.request import make_key, make_request, public_key_of_request, public_key_to_der
from x0d.spiffe.rotation import SLACK_S

TD = TrustDomain("dev.x0d.test")
T0 = 1_800_000_000.0
ROOT_TTL, LEAF_TTL = 8000, 1000


def opened(tmp_path: Path, now: float = T0) -> Authority:
    return Authority.open(tmp_path / "ca", TD, ROOT_TTL, LEAF_TTL, lambda: now)


def test_what_it_signs_keeps_the_rules_of_leaves(tmp_path: Path) -> None:
    """A certificate of the authority passes every rule of X.509-SVID and verifies in its bundle, as both parts."""
    authority = opened(tmp_path)
    signed = authority.issue_for_request(node_id(TD, "n2"), make_request(make_key()))
    bundles = Bundles.of({TD: authority.bundle()})
    for usage in Usage:
        assert node_id(TD, "n2") == check_leaf(facts_of(signed.chain_ders[0]), usage)
        verified = bundles.verify(to_pem(signed.chain_ders[0]), b"", usage, T0)
        assert node_id(TD, "n2") == verified.spiffe_id
    assert (T0 + LEAF_TTL, T0 + LEAF_TTL) == (signed.not_after_unix_s, verified.not_after_unix_s)


def test_openssl_takes_what_it_signs(tmp_path: Path) -> None:
    """OpenSSL's own command verifies the chain with the purposes of clients and of servers, strictly."""
    authority = Authority.open(tmp_path / "ca", TD, ROOT_TTL, LEAF_TTL, time.time)
    signed = authority.issue_for_request(node_id(TD, "n2"), make_request(make_key()))
    (tmp_path / "leaf.pem").write_bytes(to_pem(signed.chain_ders[0]))
    (tmp_path / "root.pem").write_bytes(to_pem(authority.bundle()[0]))
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (0, "leaf.pem: OK\n") == (done.returncode, done.stdout), done.stderr


def test_an_id_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    """The authority signs for its own trust domain only."""
    with pytest.raises(InvalidInput, match="is not of trust domain"):
        opened(tmp_path).issue_for_request(SpiffeId.parse("spiffe://prod.example/node/n2"), make_request(make_key()))


def test_no_certificate_outlives_its_root(tmp_path: Path) -> None:
    """Near the root's end certificates end with it, and after it none is made."""
    opened(tmp_path)
    late = opened(tmp_path, T0 + ROOT_TTL - 10)
    public = public_key_to_der(make_key())
    assert late.issue(node_id(TD, "n2"), public).not_after_unix_s == T0 + ROOT_TTL
    with pytest.raises(NoIdentity, match="root is not valid"):
        opened(tmp_path, T0 - 3601).issue(node_id(TD, "n2"), public)


def test_an_authority_that_slept_for_too_long_begins_anew(tmp_path: Path) -> None:
    """Opened after its root's end it has a new one at once, and the old one is gone when its certificates are."""
    before = opened(tmp_path).root_sha256
    authority = opened(tmp_path, T0 + ROOT_TTL + 1)
    assert before != authority.root_sha256
    assert (
        T0 + ROOT_TTL + 1 + LEAF_TTL
        == authority.issue(node_id(TD, "n2"), public_key_to_der(make_key())).not_after_unix_s
    )
    assert 2 == len(authority.bundle())
    assert authority.rotate(T0 + ROOT_TTL + SLACK_S + 1)
    assert 1 == len(authority.bundle())


def test_a_shorter_life_is_given_and_a_longer_one_is_not(tmp_path: Path) -> None:
    """A caller may ask for less than the configured life."""
    authority = opened(tmp_path)
    public = public_key_to_der(make_key())
    assert T0 + 60 == authority.issue(node_id(TD, "n2"), public, 60).not_after_unix_s
    assert T0 + LEAF_TTL == authority.issue(node_id(TD, "n2"), public, 10 * LEAF_TTL).not_after_unix_s


def signed_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, digest)
    return built.public_bytes(serialization.Encoding.DER)


def with_flipped_byte(der: bytes) -> bytes:
    return der[:-1] + bytes((der[-1] ^ 1,))


@pytest.mark.parametrize(
    ("request_der", "reason"),
    [
        (b"", "malformed"),
        (b"\x30\x03\x02\x01\x00", "malformed"),
        (make_request(make_key())[:-1], "malformed"),
        (make_request(make_key()) + b"\0", "malformed"),
        (b"\x30" * 20_000, "bytes"),
        (with_flipped_byte(make_request(make_key())), "not signed by its own key|malformed"),
        (signed_request(ec.generate_private_key(ec.SECP521R1())), "P-256, P-384"),
        (signed_request(rsa.generate_private_key(65_537, 1024)), "P-256, P-384"),  # noqa: S505  it is to be refused
    ],
    ids=["empty", "short", "cut", "trailing", "huge", "forged", "p521", "rsa1024"],
)
def test_a_bad_request_is_refused(request_der: bytes, reason: str) -> None:
    """Requests that are malformed, unsigned or of a strange key say so and give no key."""
    with pytest.raises(InvalidInput, match=reason):
        public_key_of_request(request_der)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_other_kinds_of_keys_that_svids_have_are_certified(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    """A request need not be P-256."""
    signed = opened(tmp_path).issue_for_request(node_id(TD, "n2"), signed_request(key))
    assert key.public_key() == x509.load_der_x509_certificate(signed.chain_ders[0]).public_key()


# ---- the file ----


def test_a_first_root_is_told(tmp_path: Path) -> None:
    """Making a root where there was none is logged and can be asked for; taking up old ones is neither."""
    with capture_logs() as logged:
        first = opened(tmp_path)
        again = opened(tmp_path)
    assert (True, False) == (first.is_new, again.is_new)
    assert [(telemetry.ROOT_MADE, "dev.x0d.test", first.root_sha256.hex())] == [
        (entry["event"], entry["trust_domain"], entry["signs"]) for entry in logged
    ]
    with capture_logs() as logged:
        assert not opened(tmp_path, T0 + ROOT_TTL + 1).is_new
    assert [telemetry.ROOT_ROTATED] == [entry["event"] for entry in logged]


def test_keys_are_for_nobody_else(tmp_path: Path) -> None:
    """The file is 0600 below 0700, whatever the umask, and no other file is left."""
    before = os.umask(0)
    try:
        opened(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca", *(tmp_path / "ca").iterdir())}
    assert {"ca": 0o700, FILE_NAME: 0o600} == modes


def test_a_second_opening_has_the_same_root(tmp_path: Path) -> None:
    """A restart reads what was made and makes nothing."""
    first, second = opened(tmp_path), opened(tmp_path, T0 + 100)
    assert (first.root_sha256, first.bundle()) == (second.root_sha256, second.bundle())


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    """A directory that others could enter is made 0700."""
    (tmp_path / "ca").mkdir(mode=0o755)
    opened(tmp_path)
    assert 0o700 == stat.S_IMODE((tmp_path / "ca").stat().st_mode)


def test_a_key_that_others_could_read_is_refused(tmp_path: Path) -> None:
    """A file whose mode let others at the keys is not used, and the error says what to do."""
    opened(tmp_path)
    (tmp_path / "ca" / FILE_NAME).chmod(0o640)
    with pytest.raises(StorageFailed, match="640 lets others at them; chmod 600"):
        opened(tmp_path)


def test_another_trust_domain_is_not_taken_over(tmp_path: Path) -> None:
    """An authority of another trust domain is left alone."""
    opened(tmp_path)
    with pytest.raises(StorageFailed, match=r"authority of trust domain dev\.x0d\.test, not of other\.test"):
        Authority.open(tmp_path / "ca", TrustDomain("other.test"), ROOT_TTL, LEAF_TTL, lambda: T0)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "trust_domain": "dev.x0d.test", "roots": [{}]}'],
)
def test_a_damaged_file_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    """Damage is an error that says so; the file is not overwritten by a new authority."""
    opened(tmp_path)
    (tmp_path / "ca" / FILE_NAME).write_bytes(content)
    with pytest.raises(StorageFailed, match="is damaged"):
        opened(tmp_path)
    assert content == (tmp_path / "ca" / FILE_NAME).read_bytes()


def test_a_key_of_another_certificate_is_damage(tmp_path: Path) -> None:
    """Key and certificate that do not belong together are refused."""
    opened(tmp_path)
    Authority.open(tmp_path / "other", TD, ROOT_TTL, LEAF_TTL, lambda: T0)
    path = tmp_path / "ca" / FILE_NAME
    content, other = json.loads(path.read_text()), json.loads((tmp_path / "other" / FILE_NAME).read_text())
    content["roots"][0]["key"] = other["roots"][0]["key"]
    path.write_text(json.dumps(content))
    with pytest.raises(StorageFailed, match="is damaged"):
        opened(tmp_path)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Neither the directory nor the file may lead elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ca").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed, match="is not a directory"):
        opened(tmp_path)


def test_a_rotation_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk first: without it the old roots stay, in memory too, and the next attempt succeeds."""
    authority = opened(tmp_path)
    before, on_disk = authority.bundle(), (tmp_path / "ca" / FILE_NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="ENOSPC"):
        authority.rotate(T0 + ROOT_TTL / 2)
    monkeypatch.undo()
    assert (before, on_disk) == (authority.bundle(), (tmp_path / "ca" / FILE_NAME).read_bytes())
    assert [FILE_NAME] == [path.name for path in (tmp_path / "ca").iterdir()]
    assert authority.rotate(T0 + ROOT_TTL / 2)


ROTATING = """
import os, signal, sys
from pathlib import Path
from x0d.identity.spiffe_id import TrustDomain
from x0d.spiffe.authority import Authority
now, left = 1_800_000_000.0, int(sys.argv[2])
authority = Authority.open(Path(sys.argv[1]), TrustDomain("dev.x0d.test"), 8000, 1000, lambda: now)
def look(event, arguments):
    global left
    if event in {"open", "os.rename", "os.remove"} and str(arguments[0]).startswith(sys.argv[1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
for at in (4000, 5000, 6121):
    authority.rotate(now + at)
"""


def test_a_kill_during_rotation_leaves_a_whole_authority(tmp_path: Path) -> None:
    """Killed before whatever file operation of a rotation, the file has the old roots or the new ones; life goes on."""
    found: set[int] = set()
    for number in range(1, 40):
        directory = tmp_path / str(number)
        command = [sys.executable, "-c", ROTATING, str(directory), str(number)]
        job = subprocess.run(command, env={"PYTHONPATH": "daemon"}, capture_output=True, text=True, check=False)
        content = json.loads((directory / FILE_NAME).read_text())
        found.add(len(content["roots"]))
        now = max(root["published_unix_s"] for root in content["roots"])
        authority = Authority.open(directory, TD, ROOT_TTL, LEAF_TTL, partial(float, now))
        signed = authority.issue(node_id(TD, "n2"), public_key_to_der(make_key()))
        bundles = Bundles.of({TD: authority.bundle()})
        assert node_id(TD, "n2") == bundles.verify(to_pem(signed.chain_ders[0]), b"", Usage.CLIENT, now).spiffe_id
        assert authority.rotate(now + ROOT_TTL)
        assert [FILE_NAME] == [path.name for path in directory.iterdir()]
        if job.returncode == 0:
            break
        assert -signal.SIGKILL == job.returncode, job.stderr
    assert 0 == job.returncode
    assert {1, 2} == found
    assert number >= 12


def test_a_removed_root_ends_what_it_signed(tmp_path: Path) -> None:
    """Once a root is dropped its certificates verify no more, whatever their dates say."""
    authority = opened(tmp_path)
    signed = authority.issue(node_id(TD, "n2"), public_key_to_der(make_key()))
    for at, roots in ((ROOT_TTL / 2, 2), (ROOT_TTL / 2 + LEAF_TTL, 2), (ROOT_TTL / 2 + 2 * LEAF_TTL + SLACK_S + 1, 1)):
        assert authority.rotate(T0 + at)
        assert roots == len(authority.bundle())
    with pytest.raises(IdentityRefused):
        Bundles.of({TD: authority.bundle()}).verify(to_pem(signed.chain_ders[0]), b"", Usage.CLIENT, T0 + 10)


def test_a_foreign_bundle_that_no_node_would_take_is_refused(tmp_path: Path) -> None:
    """Leaves, garbage and our own trust domain are no foreign roots: the issuer says so instead of each node."""
    authority, foreign = opened(tmp_path), TrustDomain("other.test")
    leaf = authority.issue(node_id(TD, "n2"), public_key_to_der(make_key())).chain_ders[0]
    for federated, reason in (
        ({foreign: (leaf,)}, "no CA's"),
        ({foreign: (b"\x30\x00",)}, "does not parse"),
        ({TD: authority.bundle()}, "our own trust domain"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            IssuedSvids(authority, federated, lambda: T0, random.Random(1))
    IssuedSvids(authority, {foreign: ()}, lambda: T0, random.Random(1))
