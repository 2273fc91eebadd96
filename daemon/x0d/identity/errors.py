"""What identity's parts raise, for those who may import nothing below them: ``x0ctl``."""

from x0d.errors import IdentityRefused, InvalidInput, NoIdentity, PeerUnreachable

__all__ = ["IdentityRefused", "InvalidInput", "NoIdentity", "PeerUnreachable"]
