"""A joined node's identity: taken as a whole or not at all, and kept whole on disk."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.authority import CA, NOW
from x0d.errors import IdentityRefused, StorageFailed
from x0d.identity.model import Reason
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.ports.issuer import Admission, Grant
from x0d.spiffe import joined as module
from x0d.spiffe.authority import Authority
from x0d.spiffe.joined import FILE_NAME, Joined, JoinedIdentity, KeyRequest, read, save, take

TD, FOREIGN = TrustDomain("dev.x0d.test"), TrustDomain("other.test")
N2, ISSUER = node_id(TD, "n2"), node_id(TD, "n1")
ENDPOINT = "10.255.0.1:9471"


def authority_of(directory: Path, trust_domain: TrustDomain = TD, now: float = NOW) -> Authority:
    return Authority.open(directory / trust_domain.name, trust_domain, 8000, 1000, lambda: now)


def granted(authority: Authority, request: KeyRequest, name: str = "n2") -> Grant:
    signed = authority.issue_for_request(node_id(authority.trust_domain, name), request.csr_der)
    return Grant(signed.chain_ders, authority.bundle())


def admitted(authority: Authority, request: KeyRequest) -> Admission:
    return Admission(granted(authority, request), ENDPOINT, ISSUER)


def joined_in(directory: Path) -> Joined:
    """An identity with a federated bundle, taken."""
    request = KeyRequest.make()
    admission = admitted(authority_of(directory), request)
    federated = {FOREIGN: authority_of(directory, FOREIGN).bundle()}
    return take(N2, request.key, replace(admission, grant=replace(admission.grant, federated=federated)), NOW)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    """The file holds all of it, 0600 below 0700."""
    joined = joined_in(tmp_path)
    save(tmp_path / "identity", joined)
    assert joined == read(tmp_path / "identity")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "identity", tmp_path / "identity" / FILE_NAME)]
    assert [0o700, 0o600] == modes


def test_a_node_that_has_not_joined_has_none(tmp_path: Path) -> None:
    """No directory and no file are no identity, and no error."""
    assert None is read(tmp_path / "identity")
    (tmp_path / "identity").mkdir()
    assert None is read(tmp_path / "identity")


@pytest.mark.parametrize("cut", [0, 1, 100, 700, 1500])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, cut: int) -> None:
    """A file that was cut is told, with the way to a new one."""
    save(tmp_path / "identity", joined_in(tmp_path))
    path = tmp_path / "identity" / FILE_NAME
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StorageFailed, match="remove it and join again"):
        read(tmp_path / "identity")


def test_a_key_that_others_could_read_is_refused(tmp_path: Path) -> None:
    """A mode that lets others at the key is an error."""
    save(tmp_path / "identity", joined_in(tmp_path))
    (tmp_path / "identity" / FILE_NAME).chmod(0o644)
    with pytest.raises(StorageFailed, match="lets others at them"):
        read(tmp_path / "identity")


def other_cluster(directory: Path, request: KeyRequest, admission: Admission) -> Admission:
    """The chain of an authority that is not in the bundle."""
    (directory / "x").mkdir()
    return replace(
        admission,
        grant=replace(granted(authority_of(directory / "x"), request), bundle_ders=admission.grant.bundle_ders),
    )


def another_id(directory: Path, request: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=granted(authority_of(directory), request, "n3"))


def another_key(directory: Path, _: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=granted(authority_of(directory), KeyRequest.make()))


def no_chain(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, chain_ders=()))


def garbage_chain(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, chain_ders=(b"\x30\x03\x02\x01\x00",)))


def garbage_bundle(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, bundle_ders=(b"\x30\x03\x02\x01\x00",)))


def leaf_as_bundle(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, bundle_ders=admission.grant.chain_ders))


def no_bundle(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, bundle_ders=()))


def garbage_federation(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, grant=replace(admission.grant, federated={FOREIGN: (b"\x30\x00",)}))


def strange_issuer(_: Path, __: KeyRequest, admission: Admission) -> Admission:
    return replace(admission, issuer_id=node_id(FOREIGN, "n1"))


def foreign_federation_forges(_: Path, request: KeyRequest, admission: Admission) -> Admission:
    """A federated authority's certificate for an ID of our trust domain."""
    forger = CA("other.test")
    leaf = forger.issue(str(N2), key=request.key)
    grant = replace(admission.grant, chain_ders=(leaf.leaf_der,), federated={FOREIGN: (forger.der,)})
    return replace(admission, grant=grant)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_cluster, Reason.UNTRUSTED),
        (another_id, Reason.WRONG_ID),
        (another_key, Reason.MALFORMED),
        (no_chain, Reason.NO_CERTIFICATE),
        (garbage_chain, Reason.MALFORMED),
        (garbage_bundle, Reason.MALFORMED),
        (leaf_as_bundle, Reason.MALFORMED),
        (no_bundle, Reason.UNTRUSTED),
        (garbage_federation, Reason.MALFORMED),
        (strange_issuer, Reason.WRONG_ID),
        (foreign_federation_forges, Reason.UNTRUSTED),
    ],
)
def test_an_answer_is_taken_whole_or_not_at_all(tmp_path: Path, spoil: object, reason: Reason) -> None:
    """One flaw in an issuer's answer refuses all of it, at the join and at each renewal, and nothing changes."""
    assert callable(spoil)
    save(tmp_path / "identity", joined_in(tmp_path))
    before = (tmp_path / "identity" / FILE_NAME).read_bytes()
    request = KeyRequest.make()
    admission = spoil(tmp_path, request, admitted(authority_of(tmp_path), request))
    with pytest.raises(IdentityRefused) as refused:
        take(N2, request.key, admission, NOW)
    assert reason == refused.value.reason
    found = read(tmp_path / "identity")
    assert found is not None
    identity = JoinedIdentity(tmp_path / "identity", found, lambda: NOW)
    identity.request()
    identity._requested = request
    if spoil is not strange_issuer:  # a renewal's answer names no issuer
        with pytest.raises(IdentityRefused):
            identity.accept(admission.grant)
    assert found.svid is identity.svid(N2)
    assert before == (tmp_path / "identity" / FILE_NAME).read_bytes()


@pytest.mark.parametrize("at", [NOW - 3600, NOW + 1001])
def test_an_answer_out_of_its_time_is_refused(tmp_path: Path, at: float) -> None:
    """A certificate that is not valid by this host's clock is not taken: one of the clocks is wrong."""
    request = KeyRequest.make()
    with pytest.raises(IdentityRefused) as refused:
        take(N2, request.key, admitted(authority_of(tmp_path), request), at)
    assert refused.value.reason in {Reason.NOT_YET_VALID, Reason.EXPIRED}


def test_a_renewal_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file cannot be written, the old identity goes on; when it can, the new one is told."""
    joined = joined_in(tmp_path)
    save(tmp_path / "identity", joined)
    identity = JoinedIdentity(tmp_path / "identity", joined, lambda: NOW)
    told: list[int] = []
    identity.subscribe(lambda: told.append(1))

    def full(_: Path, __: bytes) -> None:
        raise StorageFailed("disk full")

    def grant() -> Grant:
        identity.request()
        assert identity._requested is not None
        return granted(authority_of(tmp_path), identity._requested)

    monkeypatch.setattr(module, "write_private", full)
    with pytest.raises(StorageFailed):
        identity.accept(grant())
    assert joined.svid is identity.svid(N2)
    monkeypatch.undo()
    identity.accept(grant())
    identity.announce()
    found = read(tmp_path / "identity")
    assert found is not None
    assert (identity.svid(N2), [1]) == (found.svid, told)
    assert joined.svid != found.svid
    assert (ENDPOINT, ISSUER) == (found.renewal_endpoint, found.issuer_id)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """A later version's file is refused with a word about it."""
    save(tmp_path / "identity", joined_in(tmp_path))
    path = tmp_path / "identity" / FILE_NAME
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StorageFailed, match="newer x0d"):
        read(tmp_path / "identity")
