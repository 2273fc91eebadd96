"""A process that loads the tracepoint programs as it may, measures one system call, and prints what became of it."""

import asyncio
import json
import os
from dataclasses import asdict

from x0d.errors import KernelRefused, NotSupported
from x0d.kernel.pins import netns_inode
from x0d.kernel.tracing import PROGRAMS, KernelTracer


async def main() -> None:
    """Print programs, and how often ``getppid`` was counted."""
    tracer = KernelTracer(tuple(PROGRAMS), None, netns_inode())
    calls, refused = 0, ""
    try:
        await tracer.open()
        await tracer.read()
        try:
            await tracer.start_syscalls(30.0, 1)
        except (KernelRefused, NotSupported) as error:
            refused = str(error)
        else:
            for _ in range(500):
                os.getppid()
            calls = sum((await tracer.read()).syscalls["getppid"].counts)
        programs = [asdict(program) for program in tracer.programs()]
        print(json.dumps({"programs": programs, "calls": calls, "refused": refused}))
    finally:
        tracer.close()


if __name__ == "__main__":
    asyncio.run(main())
