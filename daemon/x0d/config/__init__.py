"""The configuration: ``load`` one TOML file into a frozen ``Config``."""

from x0d.config.changes import Changes, compare, merge
from x0d.config.model import Config
from x0d.config.parse import load

__all__ = ["Changes", "Config", "compare", "load", "merge"]
