"""x0d: a node daemon that sees a broken link from inside the kernel, heals it, and shows it."""

__version__ = "0.1.0"
