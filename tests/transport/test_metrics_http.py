"""The metrics port over TLS, and certificates that are none."""

import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from prometheus_client import CollectorRegistry, Counter

from fakes.authority import CA
from x0d.errors import AddressUnavailable
from x0d.transport.metrics_http import MetricsServer

PORT = 19475


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost and its key, PEM."""
    issued = CA("dev.x0d.test").issue("spiffe://dev.x0d.test/node/n1", dns=["localhost"])
    certificate, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.certificates_pem)
    key.write_bytes(issued.key_pem)
    return iter([(certificate, key)])


def registry() -> CollectorRegistry:
    """One counter."""
    made = CollectorRegistry()
    Counter("x0dt_calls", "Calls.", registry=made)
    return made


def test_metrics_over_tls(files: Iterator[tuple[Path, Path]]) -> None:
    """With certificate and key the port speaks TLS, and nothing else."""
    certificate, key = next(files)
    server = MetricsServer("127.0.0.1", PORT, certificate, key)
    server.start(registry())
    try:
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        with urllib.request.urlopen(f"https://127.0.0.1:{PORT}/metrics", context=trusting, timeout=5) as answer:
            assert b"x0dt_calls_total 0.0" in answer.read()
        with pytest.raises((URLError, ConnectionError)):
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5)
    finally:
        server.stop()


def test_a_certificate_that_is_none(files: Iterator[tuple[Path, Path]], tmp_path: Path) -> None:
    """A missing or damaged file, or a key of another certificate, ends the start and names the keys."""
    certificate, key = next(files)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for files_given in ((tmp_path / "none.pem", key), (broken, key), (certificate, certificate)):
        with pytest.raises(AddressUnavailable, match=r"listen\.metrics_certificate"):
            MetricsServer("127.0.0.1", PORT, *files_given).start(registry())
