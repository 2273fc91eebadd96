"""The metrics port, as Prometheus reads it."""

import shutil
import subprocess
import urllib.request

import pytest

from integration.lone_daemon import Pair
from integration.mesh_lab import expect
from x0d import telemetry

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]


def promised() -> set[str]:
    """Every metric name of telemetry.py, as prometheus_client names families."""
    named = {value for value in vars(telemetry).values() if isinstance(value, str) and value.startswith("x0d_")}
    return named | {family.name for family in telemetry.Telemetry().registry.collect()}


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")
def test_scrape(pair: Pair) -> None:
    """The real promtool accepts a scrape without a word, and every promised name is there."""
    pair.write()

    def scrape() -> str:
        with urllib.request.urlopen("http://127.0.0.1:9475/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    with pair.n2.living(), pair.n1.living() as life:
        expect("the link up", lambda: life.link("n2").state == "up")
        pair.n1.place.ip("link set e1 down")
        expect("an incident", lambda: 'x0d_incidents_total{cause="' in pair.n1.place.call(scrape))
        expect("its steps", lambda: 'x0d_heal_step_seconds_count{step="act"}' in pair.n1.place.call(scrape))
        text = pair.n1.place.call(scrape)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, check=False, capture_output=True, text=True)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    families = {line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE ")}
    assert promised() == families
    samples = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    silent = {name for name in families if not any(sample.startswith(name) for sample in samples)}
    assert set() == silent, "families without a sample"
