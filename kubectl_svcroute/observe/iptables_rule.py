"""One iptables rule, from its raw line to something that can be asked and done."""

from __future__ import annotations

from functools import lru_cache

from ..errors import ParseError
from ..model.fast_dataclass import dataclass
from ..model.ranges import network
from .iptables_match import Match, Options, destination, interface_in, interface_out, masked, parse_module, protocol, source
from .iptables_words import Quoted, split_rule

CONTINUE_TARGETS = {
    # Targets after which the packet goes on to the next rule, and which change nothing that a later rule of kube-proxy's
    # or a route depends on. (xt_LOG.c and the rest return XT_CONTINUE.)
    "LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "TCPMSS", "CHECKSUM", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "ECN",
    "SET", "SECMARK", "CONNSECMARK", "TEE", "IDLETIMER", "RATEEST", "LED", "TCPOPTSTRIP",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: all matches have to hold, then the target is done. `target` is empty for a rule that only counts."""

    raw: str
    matches: tuple[Match, ...]
    target: str
    goto: bool
    options: tuple[str, ...]
    remembers: tuple[str, ...]
    pins: bool
    """Whether a match singles out one address or port: a rule about one frontend or backend, not about all traffic."""
    trouble: str = ""
    """Why the target cannot be understood; empty when it can."""


_HEAD = {"-s", "-d", "-i", "-o", "-p", "-f"}


@lru_cache(maxsize=1 << 12)
def compile_rule(raw: str) -> Rule:
    """Understand a raw `-A chain ...` line; nodes that agree share it. Raises ParseError where iptables would not print it so."""
    words = split_rule(raw)
    at, end = 2, len(words)
    matches: list[Match] = []
    target, goto = "", False
    options: tuple[str, ...] = ()
    pins = False
    while at < end:
        word = words[at]
        negated = word == "!" and not isinstance(word, Quoted)
        if negated:
            at += 1
            word = words[at] if at < end else ""
        if word in _HEAD:
            if word == "-f":
                # Fragments have no ports and are not first packets (ip_tables.c: IPT_F_FRAG).
                matches.append(Match(lambda _, n=negated: n))  # type: ignore[misc]
                at += 1
                continue
            if at + 1 >= end:
                raise ParseError(f"{word} lacks a value", 0, raw)
            matches.append(_head(word, words[at + 1], negated, raw))
            at += 2
        elif word == "-m" and not negated and at + 1 < end:
            start = at + 2
            at = start
            while at < end and not _starts_next(words, at):
                at += 1
            matches.extend(parse_module(words[start - 1], words[start:at], raw))
        elif word in ("-j", "-g") and not negated and at + 1 < end:
            target, goto, options = words[at + 1], word == "-g", tuple(words[at + 2 :])
            at = end
        else:
            raise ParseError("not a rule that iptables would print", 0, raw)
    for match in matches:
        pins = pins or match.pins
    return Rule(
        raw=raw,
        matches=tuple(matches),
        target=target,
        goto=goto,
        options=options,
        remembers=tuple(m.remember for m in matches if m.remember),
        pins=pins,
        trouble=_trouble(target, options),
    )


def _starts_next(words: list[str], at: int) -> bool:
    word = words[at]
    return not isinstance(word, Quoted) and word in ("-m", "-j", "-g")


def _head(option: str, value: str, negated: bool, raw: str) -> Match:
    try:
        if option == "-s":
            return Match(source(network(value), negated))
        if option == "-d":
            ranges = network(value)
            return Match(destination(ranges, negated), pins=not negated and ranges[0][0] == ranges[0][1])
    except ValueError as error:
        raise ParseError(f"{option} {value} is no address", 0, raw) from error
    if option == "-p":
        return Match(protocol(value, negated))
    return Match(interface_in(value, negated) if option == "-i" else interface_out(value, negated))


def _trouble(target: str, options: tuple[str, ...]) -> str:
    text = " ".join(options)
    if target == "DNAT":
        # An iptables older than the one that wrote the rule prints these (k/k#95409, #94754, #112477, #114537).
        if "unsupported" in text or "[unsupported" in text:
            return "the node's iptables is older than kube-proxy's and cannot print this DNAT"
        if "--to-destination" not in options or ":0" in options or "0.0.0.0:0" in options:
            return "the node's iptables misprints this DNAT (its version differs from kube-proxy's)"
    elif "[unsupported" in text:
        return f"the node's iptables cannot print this {target}"
    return ""


def mark_change(rule: Rule, mark: int, ctmark: int) -> tuple[int, int]:
    """The (mark, connection mark) after a MARK or CONNMARK target. Raises ParseError for options that are not known.

    xt_mark.c: mark = (mark & ~mask) ^ value. xt_connmark.c likewise, and save and restore between the two.
    """
    found = Options(rule.target, list(rule.options), rule.raw)
    action = ""
    value, nfmask, ctmask = (0, 0xFFFFFFFF), 0xFFFFFFFF, 0xFFFFFFFF
    while pair := found.next():
        _, option = pair
        if option in ("--set-xmark", "--set-mark", "--or-mark", "--and-mark", "--xor-mark"):
            action = option
            value = masked(found.value())
        elif option in ("--save-mark", "--restore-mark"):
            action = option
        elif option == "--nfmask":
            nfmask = int(found.value(), 0)
        elif option == "--ctmask":
            ctmask = int(found.value(), 0)
        elif option == "--mask":
            nfmask = ctmask = int(found.value(), 0)
        else:
            raise ParseError(f"option {option} of target {rule.target} is not known", 0, rule.raw)
    if action == "--save-mark":
        return mark, (ctmark & ~ctmask & 0xFFFFFFFF) ^ (mark & nfmask)
    if action == "--restore-mark":
        return (mark & ~nfmask & 0xFFFFFFFF) ^ (ctmark & ctmask), ctmark
    number, mask = value
    if action == "--or-mark":
        change = (number, number)
    elif action == "--and-mark":
        change = (0, ~number & 0xFFFFFFFF)
    elif action == "--xor-mark":
        change = (number, 0)
    elif action == "--set-mark" and rule.options and "/" in "".join(rule.options):
        change = (number, number | mask)
    else:
        change = (number, mask)
    old = mark if rule.target == "MARK" else ctmark
    new = (old & ~change[1] & 0xFFFFFFFF) ^ change[0]
    return (new, ctmark) if rule.target == "MARK" else (mark, new)
