"""A matched rule in words: what it asks for, what it does, and what that is for.

The words stand beside the raw line and never in its place. What is not known here is not guessed at: it is repeated as the
rule spells it. iptables' lines are read word by word (`observe.words`), nft's by the few forms that kube-proxy writes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from ..errors import ParseError
from ..model.lazy_regex import pattern
from ..model.trace import Role
from ..model.walk_result import Step
from ..observe.iptables_words import Quoted, split_rule

_PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
_ANY = "every packet that comes here"


def asks(rule: str, *, any_: str = _ANY) -> str:
    """What a rule asks of a packet, in words; `any_` when it asks for nothing."""
    if rule.startswith("("):
        return "what no rule of the chain has decided"
    try:
        found = _iptables(rule) if rule.startswith("-A ") else _nft(rule)
    except ParseError:
        return "something that is not understood"
    return ", ".join(_joined(found)) or any_


def _joined(found: Sequence[str]) -> list[str]:
    """`TCP` and `port 80` are one thing to say, wherever in the rule they stand."""
    protocol = next((word for word in found if word in _PROTOCOLS.values()), "")
    port = next((word for word in found if word.startswith("port ")), "")
    if not protocol or not port:
        return list(found)
    return [f"{protocol} {port}" if word == port else word for word in found if word != protocol]


# ---- iptables -------------------------------------------------------------------------------------------------------------


def _iptables(rule: str) -> list[str]:
    words = split_rule(rule)[2:]
    found: list[str] = []
    at = 0
    while at < len(words):
        negated = words[at] == "!" and not isinstance(words[at], Quoted)
        at += negated
        word = words[at] if at < len(words) else ""
        value = words[at + 1] if at + 1 < len(words) else ""
        if word in ("-j", "-g"):
            break
        no = "not " if negated else ""
        if word in ("-s", "-d"):
            found.append(f"{no}{'from' if word == '-s' else 'to'} {_host(value)}")
        elif word in ("-i", "-o"):
            found.append(f"{no}{'in' if word == '-i' else 'out'} by interface {value.replace('+', '*')}")
        elif word == "-p":
            found.append(f"{no}{_PROTOCOLS.get(value, value)}")
        elif word == "-m":
            end = at + 2
            while end < len(words) and (isinstance(words[end], Quoted) or words[end] not in ("-m", "-j", "-g")):
                end += 1
            found.extend(_module(value, words[at + 2 : end]))
            at = end
            continue
        else:
            found.append(f"{no}{word} {value}".strip())
        at += 2
    return found


def _host(value: str) -> str:
    return value.removesuffix("/128" if ":" in value else "/32")


def _module(name: str, words: Sequence[str]) -> list[str]:
    if name in ("comment", "nfacct") or not words:
        return []  # a remark, a counter, and a protocol that -p has said: none asks for anything
    options: dict[str, tuple[bool, str]] = {}
    at = 0
    while at < len(words):
        negated = words[at] == "!"
        at += negated
        option = words[at] if at < len(words) else ""
        value = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("--") and words[at + 1] != "!" else ""
        options[option] = (negated, value)
        at += 2 if value else 1
    say = _MODULES.get(name)
    said = say(options) if say is not None else None
    if said is None:
        return [f"-m {name} {shlex.join(words)}"]
    return [said] if said else []


_Options = dict[str, tuple[bool, str]]


def _ports(options: _Options) -> str | None:
    (option, (negated, value)) = next(iter(options.items()))
    kind = {"--dport": "port", "--dports": "ports", "--sport": "source port", "--sports": "source ports"}.get(option)
    return f"{'not ' if negated else ''}{kind} {value}" if kind and len(options) == 1 else None


def _addrtype(options: _Options) -> str | None:
    parts = []
    for option, (negated, value) in options.items():
        if value != "LOCAL" or option not in ("--dst-type", "--src-type"):
            return None
        whose = "to" if option == "--dst-type" else "from"
        parts.append(f"{'not ' if negated else ''}{whose} an address of this node")
    return ", ".join(parts)


def _statistic(options: _Options) -> str | None:
    if options.get("--mode") != (False, "random") or "--probability" not in options:
        return None
    negated, value = options["--probability"]
    share = 1 - float(value) if negated else float(value)
    return f"by chance, {odds(share)}"


def odds(share: float) -> str:
    """`1 in 5` where it is that, else a percentage."""
    if share > 0 and abs(1 / share - round(1 / share)) < 0.002:
        return f"1 in {round(1 / share)}"
    return f"{share:.2%}"


def _recent(options: _Options) -> str | None:
    if "--set" in options:
        return ""  # it always holds: what it does is said with the rest of what the rule does
    if "--rcheck" in options and "--seconds" in options:
        return f"from a client that was sent there within the last {options['--seconds'][1]} s"
    return None


_STATES = {
    "NEW": "of a new connection",
    "INVALID": "of no connection that is known",
    "RELATED,ESTABLISHED": "of a known connection",
}


def _state(options: _Options) -> str | None:
    (option, (negated, value)) = next(iter(options.items()))
    if len(options) != 1 or option not in ("--ctstate", "--state"):
        return None
    known = _STATES.get(value, f"of a connection in state {value}")
    return f"not {known}" if negated else known


def _mark(options: _Options) -> str | None:
    negated, value = options.get("--mark", (False, ""))
    bits, _, mask = value.partition("/")
    if not bits or (mask and bits != mask):
        return None
    return f"mark {bits} {'not set' if negated else 'set'}"


_MODULES: dict[str, Callable[[_Options], str | None]] = {
    "tcp": _ports, "udp": _ports, "sctp": _ports, "multiport": _ports, "addrtype": _addrtype, "statistic": _statistic,
    "recent": _recent, "conntrack": _state, "state": _state, "mark": _mark,
}  # fmt: skip


# ---- nft ------------------------------------------------------------------------------------------------------------------

_ADDRESS = r"[0-9a-f.:]+(?:/\d+)?"
_FORMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (rf"ip6? daddr \. meta l4proto \. th dport vmap @(\S+) \{{ ({_ADDRESS}) \. (\w+) \. (\d+)(?: comment \"[^\"]*\")? : .*?\}}",
     lambda m: f"{m[2]} {_PROTOCOLS.get(m[3], m[3])} port {m[4]} is in the map {m[1]}"),
    (r"meta l4proto \. th dport vmap @(\S+) \{ (\w+) \. (\d+)(?: comment \"[^\"]*\")? : .*?\}",
     lambda m: f"{_PROTOCOLS.get(m[2], m[2])} port {m[3]} is in the map {m[1]}"),
    (r"(?:dnat ip6? to )?numgen random mod 1 v?map \{ (\S+) : .*?\}", lambda _: "there is only one"),
    (r"numgen random mod (\d+) v?map \{ (\S+) : .*?\}", lambda m: f"by chance, {odds(1 / int(m[1]))}"),
    (r"dnat ip6? to numgen random mod (\d+) map \{ (\S+) : .*?\}", lambda m: f"by chance, {odds(1 / int(m[1]))}"),
    (r"ip6? saddr \. ip6? daddr \. meta l4proto \. th dport @(\S+)",
     lambda m: f"an endpoint that was sent to itself (it is in the set {m[1]})"),
    (r"ct status dnat", lambda _: "its destination was changed"),
    (r"ip6? (s|d)addr (!= )?@(\S+)",
     lambda m: f"{'not ' if m[2] else ''}{'from' if m[1] == 's' else 'to'} an address in the set {m[3]}"),
    (rf"ip6? (s|d)addr (!= )?({_ADDRESS})(?= |$)",
     lambda m: f"{'not ' if m[2] else ''}{'from' if m[1] == 's' else 'to'} {_host(m[3])}"),
    (r"ip6? saddr (!= )?\{ ([^}]*) \}", lambda m: f"from {'none' if m[1] else 'one'} of {m[2]}"),
    (r"fib (s|d)addr type local", lambda m: f"{'from' if m[1] == 's' else 'to'} an address of this node"),
    (r"meta mark & 0x0*([0-9a-f]+) == 0x0+(?= |$)", lambda m: f"mark 0x{m[1]} not set"),
    (r"meta mark & 0x0*([0-9a-f]+) != 0x0+(?= |$)", lambda m: f"mark 0x{m[1]} set"),
    (r"ct state new", lambda _: "of a new connection"),
    (r"meta l4proto (tcp|udp|sctp)(?= |$)", lambda m: _PROTOCOLS[m[1]]),
    (r"(tcp|udp|sctp) dport (\d+)(?= |$)", lambda m: f"{_PROTOCOLS[m[1]]} port {m[2]}"),
)  # fmt: skip
_KNOWN = tuple((pattern(form), say) for form, say in _FORMS)
_DONE = pattern(
    r"(?:jump|goto) \S+|accept|drop|return|reject\b.*|masquerade\b.*|[sd]nat\b.*|redirect\b.*|meta mark set \S.*|counter\b.*"
    r'|comment "[^"]*"|update @.*|add @.*|log\b.*'
)


def _nft(rule: str) -> list[str]:
    found: list[str] = []
    rest = ""
    at = 0
    while at < len(rule):
        if rule[at] == " ":
            at += 1
            continue
        for form, say in _KNOWN:
            if match := form.match(rule, at):
                found.append(say(match))
                at = match.end()
                break
        else:
            if match := _DONE.match(rule, at):
                at = match.end()
                continue
            end = rule.find(" ", at)
            end = len(rule) if end < 0 else end
            rest += f" {rule[at:end]}"
            at = end
    return [*found, *([rest.strip()] if rest else [])]


# ---- what it does ---------------------------------------------------------------------------------------------------------

_CHAINS = (
    # (prefix, what the chain is); the longer prefixes first.
    ("KUBE-SERVICES", "kube-proxy's list of all Services"),
    ("KUBE-NODEPORTS", "kube-proxy's list of node ports"),
    ("KUBE-EXTERNAL-SERVICES", "the list of external addresses to refuse"),
    ("KUBE-PROXY-FIREWALL", "the list of what source ranges keep out"),
    ("KUBE-SVC-", "the Service's chain for all its endpoints"),
    ("KUBE-SVL-", "the Service's chain for its endpoints on this node"),
    ("KUBE-EXT-", "the Service's chain for its external addresses"),
    ("KUBE-XLB-", "the Service's chain for externalTrafficPolicy Local"),
    ("KUBE-FW-", "the Service's chain for its source ranges"),
    ("KUBE-SEP-", "the chain of one endpoint"),
    ("KUBE-MARK-MASQ", "the chain that asks for masquerade"),
    ("KUBE-MARK-DROP", "the chain that asks for a drop"),
    ("KUBE-POSTROUTING", "kube-proxy's masquerade rules"),
    ("KUBE-FORWARD", "kube-proxy's forwarding rules"),
    ("KUBE-FIREWALL", "the node's own guard"),
)
_NFT_CHAINS = (
    ("service-endpoints-check", "the list of addresses without endpoints"),
    ("nodeport-endpoints-check", "the list of node ports without endpoints"),
    ("cluster-ips-check", "what dials a cluster IP that is not served"),
    ("firewall-check", "the list of what source ranges guard"),
    ("services", "kube-proxy's list of all Services"),
    ("service-", "the Service's chain for all its endpoints"),
    ("local-", "the Service's chain for its endpoints on this node"),
    ("external-", "the Service's chain for its external addresses"),
    ("firewall-", "the Service's chain for its source ranges"),
    ("endpoint-", "the chain of one endpoint"),
    ("mark-for-masquerade", "the chain that asks for masquerade"),
    ("masquerading", "kube-proxy's masquerade rules"),
    ("reject-chain", "the chain that refuses"),
)


def chain_words(chain: str, *, nft: bool) -> str:
    """What a chain of kube-proxy's is; empty for others."""
    for prefix, words in _NFT_CHAINS if nft else _CHAINS:
        if chain.startswith(prefix):
            return words
    return ""


def does(step: Step, role: Role, *, nft: bool, foreign: bool) -> str:
    """What a rule does with the packet, in words."""
    target = step.target
    if role is Role.TRANSLATE:
        where = destination(step.rule)
        keep = "remember the client's address, and " if "-m recent --set" in step.rule else ""
        return keep + (f"change its destination to {where}" if where else f"change its destination ({target})")
    past = "on to kube-proxy's masquerade rules, and past them"
    simple = {
        Role.MARK: "set the mark",
        Role.CLEAR: "take the mark off",
        Role.MASQUERADE: "change its source to an address of this node" if target != "SNAT" else "change its source",
        Role.ACCEPT: "let it pass",
        Role.UNMARKED: "leave its source as it is" if target == "RETURN" else past,
        Role.UNKNOWN: f"{target}: what that does cannot be told from here",
        Role.DROP_MARK: "set the mark that asks for a drop",
    }.get(role)
    if simple:
        return simple
    if role is Role.STOP:
        return "refuse it with an ICMP error" if target == "REJECT" else "throw it away without a word"
    if target == "RETURN":
        return "back to where it came from"
    words = "" if foreign else chain_words(target, nft=nft)
    return f"on to {words}" if words else f"on to {target}"


_DESTINATIONS = (
    r"--to-destination (\S+)",
    r"numgen random mod \d+ map \{ \S+ : (\S+) \. (\d+) \}",
    r"\bdnat (?:ip6? )?to (\S+)",
)


def destination(rule: str) -> str:
    """Where a DNAT sends, as the rule says it; empty when it does not say."""
    for form in _DESTINATIONS:
        if found := re.search(form, rule):
            if found.lastindex == 2:
                return f"[{found[1]}]:{found[2]}" if ":" in found[1] else f"{found[1]}:{found[2]}"
            return found[1]
    return ""


# ---- commands -------------------------------------------------------------------------------------------------------------

_BRE = pattern(r"([\\.*\[\]^$])")


def show_rule(step: Step, *, shared: bool) -> str:
    """A command that only reads and shows the rule on the node. `shared`: its chain has rules of others as well."""
    family, _, table = step.table.partition(" ")
    if step.rule.startswith(("-A ", "(policy DROP")):
        save = "ip6tables-save" if family == "ip6" else "iptables-save"
        if step.rule.startswith("("):
            return f"{save} -t {shlex.quote(table)} | grep -e {shlex.quote(f'^:{_escaped(step.chain)} ')}"
        pattern = f"-A {_escaped(step.chain)} "
        if shared:
            pattern += f".*-[jg] {_escaped(step.target)}"
        return f"{save} -c -t {shlex.quote(table)} | grep -e {shlex.quote(pattern)}"
    if named := re.search(r"vmap @(\S+) \{ (.+?)(?: comment \"[^\"]*\")? : ", step.rule):
        element = shlex.quote(f"{{ {named[2]} }}")
        return f"nft get element {family} {shlex.quote(table)} {shlex.quote(named[1])} {element}"
    return f"nft list chain {family} {shlex.quote(table)} {shlex.quote(step.chain)}"


def _escaped(text: str) -> str:
    return _BRE.sub(r"\\\1", text)
