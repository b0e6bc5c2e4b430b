"""Host certificates of OpenSSH (PROTOCOL.certkeys): whether one proves that a host is who it says it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .known_hosts import HostKeyError
from .node_script import one_line

_HOST = 2
"""SSH_CERT_TYPE_HOST."""


class _Fields:
    """The fields of an SSH message, in order (RFC 4251, section 5). Raises HostKeyError where it stops short."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise HostKeyError("the host certificate is damaged")
        taken, self.position = self.data[self.position : end], end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.number(4))


def certificate_is_good(
    blob: bytes,
    host: str,
    authorities: Sequence[bytes],
    signed_by: Callable[[bytes, bytes, bytes], bool],
) -> bool:
    """Whether a host certificate is signed by one of the authorities, for this host, now.

    `signed_by(authority, data, signature)` checks a signature. False when none of the authorities signed it: the bare
    key in it may still be known. Raises HostKeyError when one did and the certificate is not good.
    """
    fields, purpose, names, (after, before), critical, authority = _read(blob)
    signed = blob[: fields.position]
    signature = fields.string()
    if authority not in authorities:
        return False
    if not signed_by(authority, signed, signature):
        raise HostKeyError("the host certificate's signature is wrong")
    if purpose != _HOST:
        raise HostKeyError("the certificate that the host shows is not a host certificate")
    if critical:
        raise HostKeyError("the host certificate has critical options that are not known here")
    if not after <= time.time() < before:
        raise HostKeyError("the host certificate is not valid now: expired, or a clock is wrong")
    if names and host.lower() not in [name.lower() for name in names]:
        raise HostKeyError(f"the host certificate is for {one_line(', '.join(names), 100)}, not for {host}")
    return True


def authority_of(blob: bytes) -> bytes:
    """The public key that signed a certificate. Raises HostKeyError where the certificate is damaged."""
    return _read(blob)[-1]


def _read(blob: bytes) -> tuple[_Fields, int, list[str], tuple[int, int], bytes, bytes]:
    """What a certificate says up to its signature, and the place where that begins."""
    fields = _Fields(blob)
    kind = fields.string()
    fields.string()  # nonce
    # The public key: Ed25519 has one field, ECDSA its curve and point, RSA its exponent and modulus.
    for _ in range(1 if b"ed25519" in kind else 2):
        fields.string()
    fields.number(8)  # serial
    purpose = fields.number(4)
    fields.string()  # key id
    names = _strings(fields.string())
    after, before = fields.number(8), fields.number(8)
    critical = fields.string()
    fields.string()  # extensions
    fields.string()  # reserved
    return fields, purpose, names, (after, before), critical, fields.string()


def _strings(packed: bytes) -> list[str]:
    fields = _Fields(packed)
    found: list[str] = []
    while fields.position < len(packed):
        found.append(fields.string().decode("utf-8", "replace"))
    return found
