"""What identity's users catch, for those who may import nothing below identity: ``x0ctl``."""

from x0d.errors import AddressUnavailable, IdentityRefused, InvalidInput, NoIdentity, PeerUnreachable

__all__ = ["AddressUnavailable", "IdentityRefused", "InvalidInput", "NoIdentity", "PeerUnreachable"]
