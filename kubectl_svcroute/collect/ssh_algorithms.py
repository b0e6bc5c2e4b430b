"""Which algorithms a connection may use: those that ssh's own configuration allows, of those that paramiko has.

`ssh -G` prints the lists that OpenSSH would offer, its own defaults among them. Where there is no OpenSSH, what OpenSSH no longer
offers by default is left out.
"""

from __future__ import annotations

from typing import Any

from ..errors import CollectError
from .ssh_config import HostConfig

_WEAK = ("3des", "-cbc", "arcfour", "blowfish", "hmac-md5", "-96", "group1-sha1", "group14-sha1", "exchange-sha1", "ssh-dss")
"""Parts of names that OpenSSH offers to no server by default (8.8 and later); SHA-1 in HMAC is still among its own."""
_KINDS = {"ciphers": "ciphers", "macs": "digests", "kexalgorithms": "kex", "hostkeyalgorithms": "key_types"}
"""The keyword of ssh_config -> paramiko's name."""


def restrict(options: Any, config: HostConfig) -> None:
    """Set what a transport offers. Raises CollectError where the configuration allows nothing that can be done here."""
    allowed = dict(config.algorithms)
    for keyword, name in _KINDS.items():
        have = [one for one in getattr(options, name) if not any(weak in one for weak in _WEAK)]
        if keyword in allowed:
            have = [one for one in allowed[keyword] if one in getattr(options, name)]
        if not have:
            raise CollectError(
                f"{config.label}: ssh's configuration allows none of the {keyword} that are known here, only"
                f" {','.join(allowed.get(keyword, ()))[:200]}"
            )
        setattr(options, name, have)
