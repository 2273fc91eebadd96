"""Command line of the daemon: arguments -> configuration -> node -> exit code.

Exit codes: 0 clean stop · 1 a failure worth a restart (port in use, state directory locked or full) ·
2 usage · 78 (EX_CONFIG) the configuration is invalid or this kernel lacks bpf(2): a restart is no help.
"""

import argparse
import asyncio
import faulthandler
import json
import sys
from pathlib import Path

from x0d import __version__, config, lean
from x0d.errors import ConfigInvalid, NoIdentity, NotSupported, StateLocked, X0dError

EX_OK = 0
EX_FAILED = 1
EX_INTERRUPTED = 130
EX_CONFIG = 78  # sysexits.h; the unit has RestartPreventExitStatus=78
CONFIG_FILE = Path("/etc/x0d/x0d.toml")


def main() -> int:
    """Run ``x0d`` and return its exit code."""
    faulthandler.enable()  # the watchdog's SIGABRT then tells where Python was
    arguments = _parser().parse_args()
    if arguments.doctor:
        return _doctor(arguments.config, arguments.output)
    try:
        loaded = config.load(arguments.config)
    except ConfigInvalid as invalid:
        sys.stderr.write(f"{invalid}\n")
        return EX_CONFIG
    if arguments.check_config:
        sys.stdout.write(f"{arguments.config}: valid\n")
        return EX_OK
    if arguments.detach_all:
        return _detach_all(loaded)
    if arguments.join is not None:
        return _join(loaded, arguments.join)
    return _run(loaded)


def _run(loaded: config.Config) -> int:
    lean.prepare()
    import structlog  # noqa: PLC0415  after lean.prepare, as all that follow
    import uvloop  # noqa: PLC0415

    from x0d import node, telemetry  # noqa: PLC0415

    telemetry.configure_log(loaded.log.level, loaded.log.format)
    log = structlog.get_logger()
    code = EX_OK
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(node.Node(loaded).run())
    except* (NotSupported, NoIdentity) as missing:
        log.error(telemetry.START_FAILED, error=_sentences(missing))
        code = EX_CONFIG
    except* X0dError as failure:
        log.error(telemetry.START_FAILED, error=_sentences(failure))
        code = EX_FAILED
    return code


def _sentences(group: BaseExceptionGroup[BaseException]) -> str:
    """Text of the errors in a group, however deep they lie."""
    return "; ".join(
        _sentences(error) if isinstance(error, BaseExceptionGroup) else str(error) for error in group.exceptions
    )


def _detach_all(loaded: config.Config) -> int:
    """Take everything of ours out of the kernel, for when no daemon is there to be asked."""
    lean.prepare()
    from x0d.kernel import pins  # noqa: PLC0415  after lean.prepare
    from x0d.store.lock import StateLock  # noqa: PLC0415

    try:
        with StateLock(loaded.node.state_dir):
            removed = pins.remove_without_daemon(loaded.node.bpffs_dir)
    except StateLocked as locked:
        sys.stderr.write(f"{locked}: ask it, with x0ctl ebpf detach --all, or stop it first\n")
        return EX_FAILED
    except X0dError as failure:
        sys.stderr.write(f"{failure}\n")
        return EX_FAILED
    found = "programs, pins and maps removed" if removed.existed else "nothing of x0d's"
    sys.stdout.write(f"{removed.directory}: {found}\n")
    return EX_OK


def _join(loaded: config.Config, word: str) -> int:
    """Become a node of a development cluster, once, before the first start."""
    lean.prepare()
    from x0d.node import join  # noqa: PLC0415  after lean.prepare

    try:
        text = join.run(loaded, sys.stdin.readline().strip() if word == "-" else word)
    except StateLocked as locked:
        sys.stderr.write(f"x0d --join: {locked}; stop it first\n")
        return EX_FAILED
    except X0dError as failure:
        sys.stderr.write(f"x0d --join: {failure}\n")
        return EX_FAILED
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    sys.stdout.write(f"{text}\n")
    return EX_OK


def _doctor(file: Path, output: str) -> int:
    lean.prepare()
    from x0d import doctor  # noqa: PLC0415  after lean.prepare

    try:
        bpffs_dir = config.load(file).node.bpffs_dir
    except ConfigInvalid:
        bpffs_dir = Path("/sys/fs/bpf/x0d")  # the doctor answers without a configuration too
    report = doctor.run(bpffs_dir)
    text = json.dumps(doctor.to_json_dict(report), indent=2) if output == "json" else doctor.render_text(report)
    sys.stdout.write(f"{text}\n")
    return EX_FAILED if any(check.outcome == "failed" for check in report.checks) else EX_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="x0d",
        description="Node daemon: sees a broken link from inside the kernel, routes around it, and shows why.",
        epilog="Exit codes: 0 stopped cleanly; 1 failed, a restart may help; 2 usage; 78 invalid configuration "
        "or missing kernel support. Control a running daemon with x0ctl.",
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, metavar="FILE", help=f"configuration file (default {CONFIG_FILE})"
    )
    parser.add_argument("--check-config", action="store_true", help="print every error of the file and exit")
    parser.add_argument(
        "--detach-all",
        action="store_true",
        help="remove every program, pin and map of x0d from this network namespace while no daemon runs, and exit",
    )
    parser.add_argument(
        "--join",
        metavar="TOKEN",
        help="get this node's identity from a development cluster's issuer, with a token of x0ctl identity token, "
        "before the first start, and exit; - reads the token from standard input",
    )
    parser.add_argument("--doctor", action="store_true", help="say what this kernel, uid and capabilities allow")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the doctor's answer")
    parser.add_argument("--version", action="version", version=f"x0d {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
