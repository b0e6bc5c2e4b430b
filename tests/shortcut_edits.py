"""Edits that tell one Service, client or node from another, drawn at random: rules, sets and maps, at every position.

`test_twins` edits what kube-proxy wrote. These add what it never writes: each rule matches on what is the cluster's (addresses,
ports, marks, states), in every spelling, anywhere; the same rule may be in the chains of all Services.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from typing import Any

OTHERS = (("172.18.0.12", "10.250.1.7", "192.0.2.2"), ("fd00:172:18::3", "fd00:10:244::9"))
"""Addresses of nodes, of pods that are no endpoints, and of others: of IPv4, and of IPv6."""

# ---- iptables -------------------------------------------------------------------------------------------------------------

_CHAINS = {
    "nat": ("PREROUTING", "OUTPUT", "POSTROUTING", "INPUT", "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ"),
    "filter": ("FORWARD", "INPUT", "OUTPUT", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL",
               "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS"),
    "mangle": ("PREROUTING", "FORWARD", "POSTROUTING", "INPUT", "OUTPUT"),
}  # fmt: skip


class IptablesEdits:
    """Draws edits of one `iptables-save`."""

    def __init__(self, text: str, rng: random.Random) -> None:
        self.rng = rng
        self.lines = text.split("\n")
        self.six = bool(re.search(r"^-A KUBE-SERVICES -d [0-9a-f]*:", text, re.MULTILINE))
        self.dialled = re.findall(r"^-A KUBE-SERVICES (?:! -s \S+ )?-d (\S+)/\d+ -p (\w+) .*--dport (\d+)", text, re.MULTILINE)
        self.ends = re.findall(r"--to-destination \[?([0-9a-f.:]+?)\]?:(\d+)$", text, re.MULTILINE)
        self.node_ports = re.findall(r"^-A KUBE-NODEPORTS .*--dport (\d+)", text, re.MULTILINE)
        self.made = 0

    def text(self) -> str:
        return "\n".join(self.lines)

    def address(self) -> str:
        rng = self.rng
        if rng.random() < 0.5 and self.dialled:
            return str(rng.choice(self.dialled)[0])
        if rng.random() < 0.8 and self.ends:
            return str(rng.choice(self.ends)[0])
        return rng.choice(OTHERS[self.six])

    def network(self) -> str:
        """A host or a network as `iptables-save` prints it, or with a host's bits left in it."""
        address = ipaddress.ip_address(self.address())
        width = address.max_prefixlen
        length = self.rng.choice((width, width, width, width - 1, width - 2, width - 3, 32, 24, 20, 16, 64 if self.six else 12))
        if self.rng.random() < 0.15:
            return f"{address}/{length}"
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))

    def port(self) -> str:
        pools = [sorted({d[2] for d in self.dialled}), sorted({e[1] for e in self.ends}), self.node_ports]
        pool = self.rng.choice([p for p in pools if p] or [["80"]])
        found = self.rng.choice(pool)
        return found if self.rng.random() < 0.8 else f"{max(int(found) - 1, 1)}:{int(found) + 1}"

    def match(self) -> str:
        rng = self.rng
        no = "! " if rng.random() < 0.15 else ""
        match rng.randrange(24):
            case 0 | 1:
                return f"{no}-d {self.network()}"
            case 2:
                return f"{no}-s {self.network()}"
            case 3 | 4:
                return f"-p tcp -m tcp {no}--dport {self.port()}"
            case 5:
                return f"-p tcp -m multiport {no}--dports {self.port()},{rng.randrange(1, 999)}"
            case 6:
                return f"-p tcp -m tcp {no}--sport {self.port()}"
            case 7:
                return f"{no}-d {self.network()} -p tcp -m tcp --dport {self.port()}"
            case 8:
                return f"-m conntrack {no}--ctorigdst {self.network()}"
            case 9:
                return f"-m conntrack {no}--ctorigdstport {self.port()}"
            case 10:
                return f"-m conntrack --ctorigdst {self.network()} --ctorigdstport {self.port()}"
            case 11:
                return f"-m conntrack {no}--ctreplsrc {self.network()}"
            case 12:
                return f"-m conntrack {no}--ctorigsrc {self.network()}"
            case 13:
                return f"-m conntrack {no}--ctreplsrcport {self.port()}"
            case 14:
                return f"-m mark {no}--mark 0x4000/0x4000"
            case 15:
                return f"-m addrtype {no}--dst-type LOCAL"
            case 16:
                return f"-m addrtype {no}--src-type LOCAL"
            case 17:
                return f"-m conntrack {no}--ctstate {rng.choice(('NEW', 'DNAT', 'RELATED,ESTABLISHED'))}"
            case 18:
                return f"-p {rng.choice(('tcp', 'udp'))}"
            case 19:
                a, b = sorted(ipaddress.ip_address(self.address()) for _ in range(2))
                return f"-m iprange {no}--{rng.choice(('dst', 'src'))}-range {a}-{b}"
            case 20:
                return f"{rng.choice(('-i', '-o'))} {rng.choice(('lo', 'eth0', 'cali+'))}"
            case 21:
                return "-m statistic --mode random --probability 0.50000000000"
            case 22:
                return f"{no}-s {self.network()} -d {self.network()}"
            case _:
                return ""

    def target(self, table: str) -> str:
        rng = self.rng
        chains = re.findall(r"^:(KUBE-(?:SVC|SEP|EXT)-\S+)", self.text(), re.MULTILINE) if table == "nat" else []
        pools = ["RETURN", "ACCEPT", "MARK --set-xmark 0x4000/0x4000", "MARK --set-xmark 0x0/0x4000"]
        if table == "nat":
            to = self.rng.choice(self.ends)
            pools += ["KUBE-MARK-MASQ", f"DNAT --to-destination {f'[{to[0]}]' if self.six else to[0]}:{to[1]}", "MASQUERADE"]
        else:
            pools += ["DROP", "DROP"]
        if table == "filter":
            pools += ["REJECT --reject-with " + ("icmp6-port-unreachable" if self.six else "icmp-port-unreachable")]
        return rng.choice(chains) if chains and rng.random() < 0.15 else rng.choice(pools)

    def about_one(self) -> str:
        """A rule that only one Service's packets match, in front of everything in a chain that all meet, or in all chains."""
        rng = self.rng
        address, proto, port = rng.choice(self.dialled)
        end, _ = rng.choice(self.ends)
        rare = rng.choice(sorted({d[2] for d in self.dialled}))
        next_ = ipaddress.ip_address(address) + rng.choice((0, 1))
        before = [
            f"-d {address}/{128 if self.six else 32}", f"-m conntrack --ctorigdst {address}",
            f"-d {address}/{128 if self.six else 32} -p {proto} -m {proto} --dport {port}",
            f"-m conntrack --ctorigdst {address} --ctorigdstport {port}", f"-m iprange --dst-range {address}-{next_}",
            f"-m conntrack --ctorigdstport {rare}", f"-p tcp -m tcp --dport {rare}", f"-p tcp -m multiport --dports {rare},9",
            f"-m u32 --u32 0x10=0x{int(ipaddress.ip_address(address)):x}", f"-s {end}",
        ]  # fmt: skip
        after = [f"-d {end}", f"-m conntrack --ctreplsrc {end}", f"-m iprange --dst-range {end}-{end}", *before[3:4]]
        if rng.random() < 0.4:
            rule = f"{rng.choice(before)} -j {rng.choice(('RETURN', 'ACCEPT', 'KUBE-MARK-MASQ'))}"
            for chain in re.findall(r"^:(KUBE-SVC-\S+)", self.text(), re.MULTILINE):
                self.insert(chain, rule, "nat", first=True)
            return f"every KUBE-SVC: {rule}"
        table, chain, matches = rng.choice((
            ("nat", "KUBE-SERVICES", before), ("nat", "PREROUTING", before), ("mangle", "PREROUTING", before),
            ("filter", "FORWARD", after), ("mangle", "FORWARD", after), ("nat", "POSTROUTING", after),
            ("nat", "KUBE-POSTROUTING", after), ("filter", "KUBE-FORWARD", after),
        ))  # fmt: skip
        if f"*{table}" not in self.lines:
            return "nothing: no such table"
        rule = f"{rng.choice(matches)} -j {rng.choice(('RETURN', 'ACCEPT')) if table == 'nat' else 'DROP'}"
        self.insert(chain, rule, table, first=True)
        return f"{table} {chain}: {rule}"

    def insert(self, chain: str, rule: str, table: str, *, first: bool = False) -> None:
        """Put a rule somewhere among those of a chain, or before them."""
        spans = self.span(table)
        its = [n for n in spans if self.lines[n].startswith(f"-A {chain} ")]
        if first:
            its = its[:1]
            self.lines.insert(its[0] if its else spans[-1], f"-A {chain} {rule}")
            return
        at = self.rng.choice([*its, its[-1] + 1]) if its else next(n for n in reversed(spans) if self.lines[n] == "COMMIT")
        self.lines.insert(at, f"-A {chain} {rule}".replace("  ", " "))

    def span(self, table: str) -> range:
        first = self.lines.index(f"*{table}")
        return range(first, self.lines.index("COMMIT", first) + 1)

    def edit(self) -> str:
        """Make one edit, and say what it was."""
        rng = self.rng
        if rng.random() < 0.4:
            return self.about_one()
        kind = rng.randrange(10)
        tables = [t for t in _CHAINS if f"*{t}" in self.lines]
        own = re.findall(r"^:(KUBE-(?:SVC|SEP|EXT)-\S+)", self.text(), re.MULTILINE)
        if kind < 4:
            table = rng.choice(tables)
            declared = [c for c in _CHAINS[table] if any(self.lines[n].startswith(f":{c} ") for n in self.span(table))]
            chain, rule = rng.choice(declared), f"{self.match()} -j {self.target(table)}"
            self.insert(chain, rule, table)
            return f"{table} {chain}: {rule}"
        if kind < 7 and own:
            prefix = rng.choice(("KUBE-SVC-", "KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-"))
            rule = f"{self.match()} -j {rng.choice(('RETURN', 'ACCEPT', self.target('nat')))}"
            its = [c for c in own if c.startswith(prefix)]
            for chain in its if rng.random() < 0.7 else rng.sample(its, min(len(its), 2)):
                self.insert(chain, rule, "nat")
            return f"{prefix}*: {rule}"
        if kind == 7:
            entries = [n for n in self.span("nat") if re.match(r"-A KUBE-(?:SERVICES|NODEPORTS) ", self.lines[n])]
            a, b = rng.choice(entries), rng.choice(entries)
            line = self.lines.pop(a)
            self.lines.insert(b, line)
            return f"moved {line}"
        if kind == 8:
            return self.affinity()
        return self.custom(rng.choice(tables))

    def custom(self, table: str) -> str:
        """A chain of somebody else's with a few rules, led to from one of kube-proxy's or the kernel's."""
        self.made += 1
        name = f"OTHER-{self.made}"
        spans = self.span(table)
        self.lines.insert(spans[0] + 1, f":{name} - [0:0]")
        declared = [c for c in _CHAINS[table] if any(self.lines[n].startswith(f":{c} ") for n in self.span(table))]
        chain = self.rng.choice(declared)
        rules = [f"{self.match()} -j {self.target(table)}" for _ in range(self.rng.randint(1, 3))]
        for rule in rules:
            self.insert(name, rule, table)
        first = f"{self.match()} -{self.rng.choice('jg')} {name}"
        self.insert(chain, first, table)
        return f"{table} {chain}: {first}; {rules}"

    def affinity(self) -> str:
        rng = self.rng
        lists = [n for n, line in enumerate(self.lines) if " -m recent " in line]
        if not lists:
            return "nothing: no affinity"
        at = rng.choice(lists)
        line = self.lines[at]
        other = re.search(r"--name (\S+)", self.lines[rng.choice(lists)])
        assert other
        match rng.randrange(6):
            case 0:
                self.lines[at] = re.sub(r"--name \S+", f"--name {other[1]}", line)
            case 1:
                mine = re.search(r"--name (\S+)", line)
                assert mine
                self.lines = [x.replace(f"--name {mine[1]} ", f"--name {other[1]} ") for x in self.lines]
            case 2:
                del self.lines[at]
            case 3:
                self.lines[at] = re.sub(r"--seconds \d+", f"--seconds {rng.choice((0, 1, 10, 10801, 99999))}", line)
            case 4:
                self.lines[at] = line.replace("--rsource", "--rdest")
            case _:
                self.lines[at] = re.sub(r"--mask \S+", "--mask " + ("ffff:ffff::" if self.six else "255.255.255.0"), line)
        return f"affinity: {line}"


# ---- nftables -------------------------------------------------------------------------------------------------------------

DROP: dict[str, Any] = {"drop": None}


class NftEdits:
    """Draws edits of one `nft -j list ruleset`."""

    def __init__(self, text: str, rng: random.Random) -> None:
        self.rng = rng
        self.objects: list[dict[str, Any]] = json.loads(text)["nftables"]
        self.family = "ip"
        named = {o["map"]["name"]: o["map"] for o in self.objects if "map" in o and o["map"]["family"] == self.family}
        if not named.get("service-ips", {}).get("elem") or rng.random() < 0.15:
            six = {o["map"]["name"]: o["map"] for o in self.objects if "map" in o and o["map"]["family"] == "ip6"}
            if six.get("service-ips", {}).get("elem"):
                self.family, named = "ip6", six
        self.six = self.family == "ip6"
        keys = [e[0]["concat"] for e in named["service-ips"].get("elem", ())]
        self.dialled = [tuple(k) for k in keys]
        self.node_ports = [e[0]["concat"][-1] for e in named.get("service-nodeports", {}).get("elem", ())]
        mine = [json.dumps(o["rule"]["expr"]) for o in self.objects if o.get("rule", {}).get("family") == self.family]
        self.ends = [(a, int(p)) for one in mine for a, p in re.findall(r'"concat": \["([0-9a-f.:]+)", (\d+)\]', one)] + [
            (a, int(p)) for one in mine for a, p in re.findall(r'"addr": "([0-9a-f.:]+)", "port": (\d+)', one)
        ]
        self.made = 0

    def text(self) -> str:
        return json.dumps({"nftables": self.objects})

    def address(self) -> str:
        rng = self.rng
        if rng.random() < 0.5:
            return str(rng.choice(self.dialled)[0])
        if rng.random() < 0.8 and self.ends:
            return str(rng.choice(self.ends)[0])
        return rng.choice(OTHERS[self.six])

    def where(self, *, interval: bool = True) -> Any:
        """A value of an address: one, a prefix, or a range."""
        address = ipaddress.ip_address(self.address())
        width = address.max_prefixlen
        match self.rng.randrange(4) if interval else 0:
            case 0 | 1:
                return str(address)
            case 2:
                length = self.rng.choice((width - 1, width - 3, 32 if self.six else 24, 16))
                net = ipaddress.ip_network(f"{address}/{length}", strict=False)
                return {"prefix": {"addr": str(net.network_address), "len": length}}
            case _:
                return {"range": [str(address), str(address + self.rng.choice((1, 2, 7)))]}

    def port(self, *, interval: bool = True) -> Any:
        pools = [sorted({int(d[2]) for d in self.dialled}), sorted({e[1] for e in self.ends}), self.node_ports]
        found = self.rng.choice(self.rng.choice([p for p in pools if p]))
        if interval and self.rng.random() < 0.2:
            return {"range": [max(found - 1, 1), found + 1]}
        return found

    def field(self, *, interval: bool = True) -> tuple[dict[str, Any], Any, str]:
        """(what is matched on, a value, its type)."""
        rng = self.rng
        ip = "ip6" if self.six else "ip"
        kind = "ipv6_addr" if self.six else "ipv4_addr"
        addresses = [
            {"payload": {"protocol": ip, "field": "daddr"}},
            {"payload": {"protocol": ip, "field": "saddr"}},
            {"ct": {"key": f"{ip} daddr", "dir": "original"}},
            {"ct": {"key": f"{ip} saddr", "dir": "original"}},
            {"ct": {"key": f"{ip} saddr", "dir": "reply"}},
        ]
        ports = [
            {"payload": {"protocol": "tcp", "field": "dport"}},
            {"payload": {"protocol": "th", "field": "dport"}},
            {"payload": {"protocol": "tcp", "field": "sport"}},
            {"ct": {"key": "proto-dst", "dir": "original"}},
            {"ct": {"key": "proto-src", "dir": "reply"}},
        ]
        match rng.randrange(10):
            case 0 | 1 | 2:
                return addresses[0], self.where(interval=interval), kind
            case 3 | 4:
                return rng.choice(addresses), self.where(interval=interval), kind
            case 5 | 6:
                return ports[0], self.port(interval=interval), "inet_service"
            case 7 | 8:
                return rng.choice(ports), self.port(interval=interval), "inet_service"
            case _:
                return {"meta": {"key": "l4proto"}}, rng.choice(("tcp", "udp")), "inet_proto"

    def verdict(self) -> dict[str, Any]:
        rng = self.rng
        own = [name for name in self.chains() if "/" in name]
        if own and rng.random() < 0.2:
            return {rng.choice(("goto", "jump")): {"target": rng.choice(own)}}
        reject = {"goto": {"target": "reject-chain"}}
        return rng.choice((DROP, DROP, {"accept": None}, {"return": None}, reject, {"continue": None}))

    def effect(self) -> list[Any]:
        rng = self.rng
        if rng.random() < 0.25:
            bits = rng.choice(({"|": [{"meta": {"key": "mark"}}, 16384]}, {"&": [{"meta": {"key": "mark"}}, 0xFFFFBFFF]}, 0))
            return [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": bits}}]
        return [self.verdict()]

    def matches(self) -> list[Any]:
        rng = self.rng
        found: list[Any] = []
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            op = "!=" if rng.random() < 0.15 else "=="
            if rng.random() < 0.12:
                found.append({"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 16384]}, "right": 16384}})
                continue
            left, right, _ = self.field()
            if rng.random() < 0.15:
                a, b = self.field(interval=False), self.field(interval=False)
                left, right = {"concat": [a[0], b[0]]}, {"set": [{"concat": [a[1], b[1]]}]}
                if rng.random() < 0.5:
                    right["set"].append({"concat": [self.value(a[2]), self.value(b[2])]})
            elif rng.random() < 0.3:
                right = {"set": [right]}
            elif isinstance(right, int) and rng.random() < 0.2:
                op = rng.choice(("<", ">", "<=", ">="))
            found.append({"match": {"op": op, "left": left, "right": right}})
        return found

    def value(self, kind: str) -> Any:
        if kind == "inet_service":
            return self.port(interval=False)
        return self.where(interval=False) if kind.startswith("ipv") else "tcp"

    def statements(self) -> list[Any]:
        """The statements of a rule; named sets and maps that it looks up are made beside it."""
        rng = self.rng
        which = rng.randrange(10)
        if which < 5:
            return [*self.matches(), *self.effect()]
        key: Any
        fields = [self.field(interval=False) for _ in range(2)] if rng.random() < 0.4 else [self.field(interval=which < 7)]
        key = fields[0][0] if len(fields) == 1 else {"concat": [f[0] for f in fields]}
        first = fields[0][1] if len(fields) == 1 else {"concat": [f[1] for f in fields]}
        values = [first]
        for _ in range(rng.randrange(3)):
            extra = [self.value(f[2]) for f in fields]
            one = extra[0] if len(extra) == 1 else {"concat": extra}
            if one not in values:
                values.append(one)
        head = self.matches() if rng.random() < 0.4 else []
        flags = {"flags": ["interval"]} if any("prefix" in str(v) or "range" in str(v) for v in values) else {}
        kind = fields[0][2] if len(fields) == 1 else [f[2] for f in fields]
        if which in (5, 8):  # a named set
            name, op = self.named(kind, values, flags), rng.choice(("==", "==", "!="))
            return [*head, {"match": {"op": op, "left": key, "right": f"@{name}"}}, *self.effect()]
        verdicts = [[v, self.verdict()] for v in values]
        if rng.random() < 0.15:
            verdicts.append(["*", self.verdict()])
        data: Any = {"set": verdicts}
        if which in (6, 9):
            data = f"@{self.named(kind, verdicts, flags, verdict=True)}"
        return [*head, {"vmap": {"key": key, "data": data}}]

    def named(self, kind: Any, elements: list[Any], flags: dict[str, Any], *, verdict: bool = False) -> str:
        self.made += 1
        name = f"odd-{self.made}"
        where = {"family": self.family, "table": "kube-proxy", "handle": 900 + self.made}
        body = {**where, "name": name, "type": kind, **flags, "elem": elements}
        at = next(n for n, o in enumerate(self.objects) if "chain" in o and o["chain"]["family"] == self.family)
        self.objects.insert(at, {"map": {**body, "map": "verdict"}} if verdict else {"set": body})
        return name

    def about_one(self) -> str:
        """A rule that only one Service's packets match, in front of everything in a chain that all meet, or in all chains."""
        rng = self.rng
        address, _, port = rng.choice(self.dialled)
        end = rng.choice(self.ends)[0]
        rare = rng.choice(sorted({d[2] for d in self.dialled}))
        ip, kind = ("ip6", "ipv6_addr") if self.six else ("ip", "ipv4_addr")
        daddr, dport = {"payload": {"protocol": ip, "field": "daddr"}}, {"payload": {"protocol": "tcp", "field": "dport"}}
        dialled = {"ct": {"key": f"{ip} daddr", "dir": "original"}}
        dialled_port = {"ct": {"key": "proto-dst", "dir": "original"}}
        before: list[tuple[list[Any], list[Any], list[str]]] = [
            ([daddr], [address], [kind]), ([dialled], [address], [kind]),
            ([daddr, dport], [address, port], [kind, "inet_service"]),
            ([dialled, dialled_port], [address, port], [kind, "inet_service"]), ([dialled_port], [rare], ["inet_service"]),
            ([dport], [rare], ["inet_service"]), ([{"payload": {"protocol": ip, "field": "saddr"}}], [end], [kind]),
        ]  # fmt: skip
        answers = {"ct": {"key": f"{ip} saddr", "dir": "reply"}}
        after = [([daddr], [end], [kind]), *before[1:2], *before[3:4], ([answers], [end], [kind])]
        everywhere = rng.random() < 0.4
        chain, fields = ("", before) if everywhere else rng.choice((
            ("services", before), ("nat-prerouting", before), ("filter-prerouting", before), ("filter-forward", after),
            ("nat-postrouting", after), ("masquerading", after),
        ))  # fmt: skip
        keys, values, kinds = rng.choice(fields)
        key = keys[0] if len(keys) == 1 else {"concat": keys}
        value = values[0] if len(values) == 1 else {"concat": values}
        if isinstance(values[0], str) and len(keys) == 1 and rng.random() < 0.3:
            value = {"range": [value, str(ipaddress.ip_address(value) + rng.choice((1, 2)))]}
        flags = {"flags": ["interval"]} if isinstance(value, dict) and "range" in value else {}
        verdict = rng.choice((DROP, {"accept": None}, {"return": None}))
        match rng.randrange(5):
            case 0:
                rule = [{"match": {"op": "==", "left": key, "right": {"set": [value]}}}, verdict]
            case 1:
                rule = [{"vmap": {"key": key, "data": {"set": [[value, verdict]]}}}]
            case 2:
                name = self.named(kinds if len(kinds) > 1 else kinds[0], [value], flags)
                rule = [{"match": {"op": "==", "left": key, "right": f"@{name}"}}, verdict]
            case 3:
                name = self.named(kinds if len(kinds) > 1 else kinds[0], [[value, verdict]], flags, verdict=True)
                rule = [{"vmap": {"key": key, "data": f"@{name}"}}]
            case _:
                rule = [*({"match": {"op": "==", "left": k, "right": v}} for k, v in zip(keys, values, strict=True)), verdict]
        for name in self.chains():
            if (chain and name.startswith(chain)) or (everywhere and name.startswith("service-") and "/" in name):
                self.insert(name, rule, first=True)
        return f"{chain or 'every service chain'}: {json.dumps(rule)}"

    def insert(self, chain: str, statements: list[Any], *, first: bool = False) -> None:
        where = {"family": self.family, "table": "kube-proxy", "chain": chain}
        its = [n for n, o in enumerate(self.objects) if where.items() <= o.get("rule", {}).items()]
        at = its[0] if its and first else self.rng.choice([*its, its[-1] + 1]) if its else len(self.objects)
        self.objects.insert(at, {"rule": {**where, "handle": 990, "expr": statements}})

    def chains(self) -> list[str]:
        """The chains of kube-proxy's table."""
        where = {"family": self.family, "table": "kube-proxy"}
        return [o["chain"]["name"] for o in self.objects if "chain" in o and where.items() <= o["chain"].items()]

    def edit(self) -> str:
        """Make one edit, and say what it was."""
        rng = self.rng
        if rng.random() < 0.4:
            return self.about_one()
        kind = rng.randrange(10)
        chains = self.chains()
        own = [c for c in chains if "/" in c]
        if kind < 4:
            chain, rule = rng.choice([c for c in chains if "/" not in c]), self.statements()
            self.insert(chain, rule)
            return f"{chain}: {json.dumps(rule)}"
        if kind < 7:
            prefix = rng.choice(("service-", "service-", "endpoint-", "external-"))
            rule = self.statements()
            its = [c for c in own if c.startswith(prefix)]
            for chain in its if rng.random() < 0.7 else rng.sample(its, min(len(its), 2)):
                self.insert(chain, rule)
            return f"{prefix}*: {json.dumps(rule)}"
        if kind == 7:
            return self.affinity()
        if kind == 8:
            return self.elements()
        self.made += 1
        name = f"other-{self.made}"
        at = next(n for n, o in enumerate(self.objects) if "rule" in o)
        self.objects.insert(at, {"chain": {"family": self.family, "table": "kube-proxy", "name": name, "handle": 980}})
        rules = [self.statements() for _ in range(rng.randint(1, 3))]
        for rule in rules:
            self.insert(name, rule)
        chain = rng.choice([c for c in chains if "/" not in c])
        first = [*self.matches(), {rng.choice(("jump", "goto")): {"target": name}}]
        self.insert(chain, first)
        return f"{chain}: {json.dumps(first)}; {json.dumps(rules)}"

    def affinity(self) -> str:
        rng = self.rng
        names = [o["set"]["name"] for o in self.objects if "set" in o and o["set"]["name"].startswith("affinity-")
                 and o["set"]["family"] == self.family]  # fmt: skip
        using = [o for o in self.objects if o.get("rule", {}).get("family") == self.family and '"@affinity-' in json.dumps(o)]
        if not names or not using:
            return "nothing: no affinity"
        one = rng.choice(using)
        printed = json.dumps(one["rule"]["expr"])
        match rng.randrange(4):
            case 0:
                one["rule"]["expr"] = json.loads(re.sub(r'"@affinity-[^"]*"', json.dumps("@" + rng.choice(names)), printed))
            case 1:
                a, b = rng.choice(names), rng.choice(names)
                for o in using:
                    o["rule"]["expr"] = json.loads(json.dumps(o["rule"]["expr"]).replace(f'"@{a}"', f'"@{b}"'))
            case 2:
                self.objects.remove(one)
            case _:
                one["rule"]["expr"] = json.loads(printed.replace('"saddr"', '"daddr"'))
        return f"affinity: {printed}"

    def elements(self) -> str:
        """Another element in one of kube-proxy's own sets and maps, or one less."""
        rng = self.rng
        kinds = [(k, o[k]) for o in self.objects for k in ("set", "map") if k in o and o[k]["family"] == self.family
                 and o[k]["table"] == "kube-proxy" and not o[k]["name"].startswith(("affinity-", "odd-"))]  # fmt: skip
        kind, body = rng.choice(kinds)
        elements = body.setdefault("elem", [])
        if elements and rng.random() < 0.4:
            gone = elements.pop(rng.randrange(len(elements)))
            return f"{body['name']}: without {gone}"
        parts = body["type"] if isinstance(body["type"], list) else [body["type"]]
        dialled = rng.choice(self.dialled)
        values = []
        for part in parts:
            if part.startswith("ipv"):
                values.append(dialled[0] if rng.random() < 0.6 else self.where(interval=False))
            elif part == "inet_proto":
                values.append("tcp")
            else:
                values.append(dialled[2] if rng.random() < 0.5 else self.port(interval=False))
        key = values[0] if len(values) == 1 else {"concat": values}
        one = [key, self.verdict()] if kind == "map" else key
        known = [e[0] if kind == "map" else e for e in elements]
        if key not in known:
            elements.insert(rng.randrange(len(elements) + 1), one)
        return f"{body['name']}: with {one}"
