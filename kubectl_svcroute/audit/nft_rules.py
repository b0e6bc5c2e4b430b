"""Read a node's nftables rules: those of kube-proxy in nftables mode, and those beside it in every mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ParseError

if TYPE_CHECKING:
    from ..model.nft import NftRules
    from .subject import Subject

NFT_FILES = ("nft-ruleset.json", "nft-ruleset.txt")
"""The files that can hold the node's nftables rules, the preferred one first."""


def parse_nft(files: Mapping[str, str], *, like: NftRules | None = None) -> NftRules | None:
    """The nftables tables that a node's files hold, in either form; None where no file has any. Raises ParseError.

    `like`: the rules of another node; elements that are to the letter its own are taken from there.
    """
    file = next((name for name in NFT_FILES if name in files), None)
    if file is None:
        return None
    if file == "nft-ruleset.txt":
        from ..parse.nft_text import parse_nft_text  # noqa: PLC0415 - most nodes print JSON, or nothing

        return parse_nft_text(files[file], source=file)
    from ..parse.nft_json import parse_nft_json  # noqa: PLC0415 - few nodes in iptables mode have such a file

    return parse_nft_json(files[file], source=file, like=like)


def read_nft(subject: Subject, *, like: NftRules | None = None) -> NftRules | None:
    """The nftables tables that were read; None where no file has any, or, with the reason in the ledger, one is unreadable.

    `like`: as `parse_nft` takes it.
    """
    try:
        return parse_nft(subject.dump.files, like=like)
    except ParseError as error:
        file = next(name for name in NFT_FILES if name in subject.dump.files)
        subject.ledger.cannot("SR902", f"{file}: {error}")
        return None
