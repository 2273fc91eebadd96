"""Entry of ``x0ctl``: arguments in, exit code out.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 unreachable, 4 not permitted, 130 Ctrl-C.
"""

import sys
from typing import Final

import click

from x0ctl.cli import cli
from x0ctl.failure import Failure

EXIT_INTERRUPTED: Final = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors go to stderr with what to do next."""
    try:
        result = cli.main(args=arguments, prog_name="x0ctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Failure as error:
        click.echo(f"x0ctl: {error}", err=True)
        return error.exit_code
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
