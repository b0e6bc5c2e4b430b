"""What one table says of a packet."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """The end of a packet's way through one base chain."""

    ACCEPT = "accept"
    """On to the next base chain, or out of the hook."""
    DROP = "drop"
    REJECT = "reject"
    UNKNOWN = "unknown"
    """What happens cannot be told; `Packet.unknown` says why."""
    BACK = "back"
    """It came back to where a look ahead began (observe/look_ahead.py). No base chain ends with it."""
