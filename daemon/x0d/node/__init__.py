"""The composition root: ``Node`` builds the object graph by hand and runs it."""

from x0d.node.life import Node

__all__ = ["Node"]
