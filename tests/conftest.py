"""What every test gets: the run's seed, and the rule for tests that need root and this machine's kernel.

A test marked ``kernel`` is skipped with a reason where something it needs is missing.  With
X0D_REQUIRE_KERNEL=1, as in .ci/run, it fails instead, so that a gate never passes by not looking.
"""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

SEED_MAX = 2**30
KERNEL_COMMANDS = ("ip", "nsenter", "unshare")

# A test that forks while gRPC's threads of an earlier one run: its fork handlers have nothing to do for us but to wait.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# The cores are shared by many tests: a slow example is no finding.
settings.register_profile("x0d", deadline=None, print_blob=True)
settings.load_profile("x0d")


def kernel_shortfall() -> str:
    """Name what this machine lacks for tests marked ``kernel``; empty when it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [command for command in KERNEL_COMMANDS if shutil.which(command) is None]
    if missing:
        return f"needs the commands {', '.join(missing)}"
    if not Path("/sys/fs/bpf").is_dir():
        return "needs a kernel with BPF: /sys/fs/bpf is missing"
    return ""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed, once, for hypothesis and for the ``seed`` fixture."""
    if os.environ.get("X0D_SEED") is None:
        os.environ["X0D_SEED"] = str(random.SystemRandom().randrange(SEED_MAX))
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = os.environ["X0D_SEED"]


def pytest_report_header() -> str:
    """Print the seed where every log begins."""
    return f"seed: repeat with X0D_SEED={os.environ['X0D_SEED']}; python {sys.version.split()[0]}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under X0D_REQUIRE_KERNEL fail, what this machine cannot run."""
    if item.get_closest_marker("kernel") is None:
        return
    shortfall = kernel_shortfall()
    if shortfall and os.environ.get("X0D_REQUIRE_KERNEL") == "1":
        pytest.fail(f"X0D_REQUIRE_KERNEL=1, and this test {shortfall}")
    if shortfall:
        pytest.skip(shortfall)


@pytest.fixture
def seed() -> int:
    """Return the run's seed, printed in the header and again when a test fails."""
    value = int(os.environ["X0D_SEED"])
    print(f"seed {value}")
    return value
