r"""The one script that is run on every node, and the reader of what it prints.

Theory of operation. The script needs nothing but a POSIX shell: no temporary file (the root may be read-only), no
tool but those whose absence it survives. It is fed to `sh -s` on standard input, so that the login shell of the user
(csh, fish) never sees it and its nonce never stands in a process list. It prints

    <nonce> start gzip|plain\n                 in the clear, so that a banner or a chatty profile before it is skipped
    \n<nonce> begin NAME\n<output>             one section per tool, as the tool printed it, byte for byte
    \n<nonce> end\n<tail of stderr>\n<status>
    \n<nonce> note NAME\n<why a section was not even begun>
    \n<nonce> done\n                           proof that the script ran to its end

and everything behind the first line is one gzip stream where the node has gzip. The nonce is drawn anew for each run:
nothing that was on the node before (a rule's comment, a process's name) can contain it, and so nothing can forge a frame.

What it must never do is change the node. `iptables-legacy-save` and `iptables-nft-save` make the kernel load modules
that are not there yet, so each runs only where its tables already exist. `nft` is asked for kube-proxy's own tables
alone: listing everything takes over half a minute of CPU where iptables-nft holds 160,000 rules.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from ..errors import CollectError
from ..model.fast_dataclass import dataclass
from ..model.lazy_regex import pattern
from ..model.ranges import number
from ..model.ranges import text as address_text
from ..model.snapshot import EMPTY, NOT_READ, NodeDump
from .flags import without_secrets

MAX_BYTES = 256 << 20
"""How much one node may say, decompressed: five times what the largest capture known takes (49 MB of nft JSON)."""

NOISE_LIMIT = 1 << 20
"""How much may be printed before the script's first line: banners and profiles, not a gigabyte."""

RULE_FILES = (
    "iptables-save.txt",
    "ip6tables-save.txt",
    "iptables-legacy-save.txt",
    "iptables-nft-save.txt",
    "ip6tables-legacy-save.txt",
    "ip6tables-nft-save.txt",
    "nft-ruleset.json",
    "nft-ruleset.txt",
)

_OWN_FILES = frozenset(("iptables-save.txt", "ip6tables-save.txt", "nft-ruleset.json", "nft-ruleset.txt"))
"""Those of which a node that was read gives at least one, or says that there is nothing to give."""

_TOOL_SECONDS = 120
"""A single tool that takes longer hangs: on a node of 160,000 rules, iptables-nft-save can take half a minute of CPU."""

_SETTINGS = r"""
LC_ALL=C; export LC_ALL
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin:/opt/bin; export PATH
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
NL='
'
have() { command -v "$1" >/dev/null 2>&1; }
# The last 2 MB of a stream: enough for whatever is kept in a variable, and a bound on what a sick tool can print.
if have tail; then last() { tail -c "$1"; }
else last() { while IFS= read -r l; do printf '%s\n' "$l"; done; printf '%s' "$l"; }
fi
# A file of /proc/sys gives its text to the first read(2) alone, and the `read` of dash and busybox asks for a byte at a time:
# it sees the first digit. These shells ask for more where they read a script (-n: to run nothing of it, -v: to print it).
by_lines() { while IFS= read -r l; do printf '%s\n' "$l"; done <"$1"; printf '%s' "$l"; }
SEEN=$(by_lines /proc/sys/kernel/pid_max 2>/dev/null)
if have cat; then show() { cat "$1"; }
elif [ ${#SEEN} -gt 1 ] || ! have sh; then show() { by_lines "$1"; }
else show() { sh -nv "$1" 2>&1; }
fi
GENTLE=
if have nice && nice -n 10 true 2>/dev/null; then GENTLE='nice -n 10'; fi
# busybox before 1.30 spells it `timeout -t 60`; there the reader's own deadline has to do.
if have timeout && timeout 5 true 2>/dev/null; then GENTLE="$GENTLE timeout @SECONDS@"; fi
note() { printf '\n%s note %s\n%s' "$K" "$1" "$2"; }
# Output goes straight through on descriptor 4; the pipe holds stderr, then the status as its last line.
section() {
  name=$1; shift
  printf '\n%s begin %s\n' "$K" "$name"
  e=$( { "$@" 2>&1 1>&4 4>&- </dev/null; printf '\n%s' "$?"; } | last 1500 )
  rc=${e##*"$NL"}
  printf '\n%s end\n%s' "$K" "$e"
}
"""

_KUBE_PROXY_PROCESS = r"""
# The kube-proxy of this network namespace: on a machine that runs kind, the host sees those of its containers too.
# Only root's: anyone may call a process kube-proxy.
PROXY= SEEN=unknown
for p in /proc/[0-9]*; do
  c=
  { IFS= read -r c <"$p/comm"; } 2>/dev/null
  case $c in
    kube-proxy) if [ -O "$p" ] && [ "$p/ns/net" -ef /proc/self/ns/net ] 2>/dev/null; then PROXY=$p; break; fi ;;
    # A container sees its own processes alone; and these run kube-proxy within themselves.
    kubelet | kthreadd) if [ "$SEEN" = unknown ]; then SEEN=none; fi ;;
    k3s* | rke2* | k0s* | kubelite) SEEN=embedded ;;
  esac
done
argv() { if have tr; then tr '\0' '\n' <"$PROXY/cmdline"; else return 127; fi; }
METRICS= HEALTH=
if [ -n "$PROXY" ]; then
  while IFS= read -r a; do
    case $a in
      --metrics-bind-address=?*) METRICS=${a#*=} ;;
      --healthz-bind-address=?*) HEALTH=${a#*=} ;;
    esac
  done <<END
$(argv 2>/dev/null)
END
fi
"""

_CONTAINER = r"""
# inside: a prefix that runs a tool in the kube-proxy container, for hosts that have no iptables or nft of their own.
# Asked for only then: crictl and docker cost more than the rest of this script together.
inside() {
  c=
  if have crictl; then c=$(crictl ps --name '^kube-proxy' -q 2>/dev/null </dev/null); c=${c%%"$NL"*}; fi
  if [ -n "$c" ]; then printf 'crictl exec %s' "$c"; return; fi
  if have docker; then c=$(docker ps -q --filter name=k8s_kube-proxy_ 2>/dev/null </dev/null); c=${c%%"$NL"*}; fi
  if [ -n "$c" ]; then printf 'docker exec %s' "$c"; return; fi
  if [ -n "$PROXY" ] && have chroot && chroot "$PROXY/root" iptables -V >/dev/null 2>&1 </dev/null; then
    printf 'chroot %s/root' "$PROXY"
  fi
}
INSIDE= OLD_NFT=
case $(nft -v 2>/dev/null </dev/null) in *"nftables v0."*) OLD_NFT=yes ;; esac
if [ @TOOLS@ = container ] || [ -n "$OLD_NFT" ] || ! have iptables-save || ! have nft; then INSIDE=$(inside); fi
"""

_BACKENDS = r"""
IPT= NFT=
if [ @TOOLS@ = container ] || ! have iptables-save; then IPT=$INSIDE; fi
if [ @TOOLS@ = container ] || [ -n "$OLD_NFT" ] || ! have nft; then NFT=$INSIDE; fi
# /proc names the tables that the legacy backend holds. Without any, iptables-legacy-save would load modules.
legacy_tables() {
  if [ -r "$1" ]; then show "$1" 2>/dev/null || echo unknown
  elif [ -e "$1" ] || [ ! -e /proc/net/dev ]; then echo unknown
  fi
}
LEGACY4=$(legacy_tables /proc/net/ip_tables_names) LEGACY6=$(legacy_tables /proc/net/ip6_tables_names)
# nf_tables is loaded by the first program that asks for it; we are not to be that program. Where its module lies on
# the disk and is not among the loaded ones, it would be; where it is built in, there is nothing to load. A container does
# not see the disk: the kernel's symbols tell, where there is grep to find one among 200,000.
NFTABLES=yes
if [ ! -d /sys/module/nf_tables ]; then
  K_RELEASE=$(show /proc/sys/kernel/osrelease 2>/dev/null)
  for m in "/lib/modules/$K_RELEASE/kernel/net/netfilter/nf_tables.ko"*; do
    if [ -e "$m" ]; then NFTABLES=; fi
  done
  if have grep && grep -q ' nf_register_net_hook' /proc/kallsyms 2>/dev/null; then
    if ! grep -q ' nft_register_chain_type' /proc/kallsyms; then NFTABLES=; fi
  fi
fi
V4=$($IPT iptables -V 2>/dev/null </dev/null) || V4=$($IPT iptables-save -V 2>/dev/null </dev/null)
V6=$($IPT ip6tables -V 2>/dev/null </dev/null) || V6=$($IPT ip6tables-save -V 2>/dev/null </dev/null)
backend() { case $1 in *nf_tables*) echo nft ;; ?*) echo legacy ;; esac; }
OWN4=$(backend "$V4") OWN6=$(backend "$V6")
# Tables of all programs. `list flowtables` prints their names, and `list chains` the chains' heads, each in half a second;
# `list tables`, of all things, reads every rule of the node first (nft 1.0.6, src/cache.c: what is listed without a case of
# its own is cached whole): 25 s of CPU where iptables-nft holds 160,000 rules.
LISTED= TABLES= NO_NFT=
if [ -z "$NFTABLES" ]; then NO_NFT="no tables: the kernel has not loaded nf_tables"
elif [ -z "$NFT" ] && [ -n "$OLD_NFT" ]; then
  NO_NFT="nft of this node is older than 1.0: whatever it is asked, it reads every rule of the node"
elif ! $NFT nft -v >/dev/null 2>&1 </dev/null; then NO_NFT="no nft on this node, nor a kube-proxy container that has it"
elif TABLES=$($GENTLE $NFT nft list flowtables 2>/dev/null </dev/null); then LISTED=yes
fi
"""

_SAVES = r"""
# holds ip|ip6: whether nft lists a table that iptables-nft keeps rules in
holds() {
  for t in filter nat mangle raw security; do
    case $NL$TABLES in *"${NL}table $1 $t {"*) return 0 ;; esac
  done
  return 1
}
# other PROGRAM legacy|nft WHY-NOT: by whichever of the tools there is, on the host or in kube-proxy's container
other() { prints "$IPT" "$1" "$2" || prints "$(inside)" "$1" "$2" || note "$1-$2-save.txt" "$3"; }
prints() {
  if $1 "$2-$3-save" -V >/dev/null 2>&1 </dev/null; then section "$2-$3-save.txt" $GENTLE $1 "$2-$3-save"
  elif $1 "xtables-$3-multi" "$2-save" -V >/dev/null 2>&1 </dev/null; then
    section "$2-$3-save.txt" $GENTLE $1 "xtables-$3-multi" "$2-save"
  else return 1
  fi
}
# saves 4|6 PROGRAM OWN-BACKEND LEGACY-TABLES NFT-FAMILY
saves() {
  own=$3 names=$4
  if ! $IPT "$2" -V >/dev/null 2>&1 </dev/null && ! $IPT "$2-save" -V >/dev/null 2>&1 </dev/null; then
    note "$2-save.txt" "no $2-save on this node, nor a kube-proxy container that has it"; own=
  elif [ "$own" = legacy ] && [ -z "$names" ]; then
    note "$2-save.txt" "no tables: $2 is legacy, and the kernel holds no legacy table"
  elif [ "$own" = nft ] && [ -z "$NFTABLES" ]; then
    note "$2-save.txt" "no tables: $2 is nf_tables, and the kernel has not loaded nf_tables"
  else section "$2-save.txt" $GENTLE $IPT "$2-save"
  fi
  # The other backend's rules are on the packet's path too.
  if [ "$own" = legacy ]; then :
  elif [ -z "$names" ]; then note "$2-legacy-save.txt" "no tables: the kernel holds no legacy table"
  elif [ -z "${names%%*unknown}" ]; then
    note "$2-legacy-save.txt" "/proc/net does not show whether the kernel holds legacy tables"
  else other "$2" legacy "the kernel holds legacy tables, and no $2-legacy-save is there to print them"
  fi
  if [ "$own" = nft ]; then :
  elif [ -z "$NFTABLES" ]; then note "$2-nft-save.txt" "no tables: the kernel has not loaded nf_tables"
  elif [ -n "$LISTED" ] && ! holds "$5"; then note "$2-nft-save.txt" "no tables: nft lists no table of $2-nft"
  elif [ -n "$LISTED" ]; then other "$2" nft "the kernel holds tables of $2-nft, and no $2-nft-save is there to print them"
  else other "$2" nft "neither $2-nft-save nor nft is there to tell whether the kernel holds tables of $2-nft"
  fi
}
saves 4 iptables "$OWN4" "$LEGACY4" ip
saves 6 ip6tables "$OWN6" "$LEGACY6" ip6
"""

_NFT = r"""
# Tables and base chains, of all programs.
hooks() {
  if have sed; then
    { $GENTLE $NFT nft -y list chains; printf 'status %s\n' "$?"; } |
      sed -n '/^table /p;/^status /p;/^	chain /{N;/ hook /p;}'
  else printf '%s\nstatus 0\n' "$TABLES"
  fi
}
if [ -n "$NO_NFT" ]; then note nft-tables.json "$NO_NFT"
elif [ -z "$LISTED" ]; then section nft-tables.txt $GENTLE $NFT nft list flowtables
else
  section nft-tables.txt hooks
  json=
  if $NFT nft -j list flowtables >/dev/null 2>&1 </dev/null; then json=yes; fi
  for family in ip ip6; do
    case $NL$TABLES in *"${NL}table $family kube-proxy {"*)
      if [ -n "$json" ]; then section "nft-ruleset.json/$family" $GENTLE $NFT nft -j list table "$family" kube-proxy
      else section "nft-ruleset.txt/$family" $GENTLE $NFT nft list table "$family" kube-proxy
      fi ;;
    esac
  done
fi
"""

_HTTP = r"""
fetch() {
  if have curl; then curl -q -s -g --noproxy '*' -m 4 "$@"
  elif have wget; then shift $(($# - 1)); wget -q -O - -T 4 "$1"
  else return 127
  fi
}
# The body in a variable, so that an answer cut off midway is not printed as if it were whole.
http() {
  b=$( { fetch "$@"; printf '\n%s' "$?"; } | last 2000000 )
  printf '%s' "${b%"$NL"*}"
  return "${b##*"$NL"}"
}
sync_metrics() {
  b=$( { fetch -f "$1"; printf '\n%s' "$?"; } |
    grep -E '^(kubeproxy_sync_|kubeproxy_network_programming[a-z_]*timestamp|[0-9]+$)' | last 2000000 )
  printf '%s' "${b%"$NL"*}"
  return "${b##*"$NL"}"
}
if have curl || have wget; then
  at=
  for a in $METRICS 127.0.0.1:10249 '[::1]:10249'; do
    case $a in
      0.0.0.0:*) a=127.0.0.1:${a##*:} ;; '[::]':*) a="[::1]:${a##*:}" ;; :*) a=127.0.0.1$a ;; *:*) ;; *) a=$a:10249 ;;
    esac
    if fetch -f "http://$a/proxyMode" >/dev/null 2>&1; then at=$a; break; fi
  done
  if [ -n "$at" ]; then
    section proxy-mode.txt http -f "http://$at/proxyMode"
    section configz.json http -f "http://$at/configz"
    if have grep; then section metrics.txt sync_metrics "http://$at/metrics"; fi
  else note proxy-mode.txt "nothing answers at kube-proxy's metrics address (${METRICS:-127.0.0.1:10249})"
  fi
  a=${HEALTH:-127.0.0.1:10256}
  case $a in
    0.0.0.0:*) a=127.0.0.1:${a##*:} ;; '[::]':*) a="[::1]:${a##*:}" ;; :*) a=127.0.0.1$a ;; *:*) ;; *) a=$a:10256 ;;
  esac
  section healthz.json http "http://$a/healthz"
else note proxy-mode.txt "neither curl nor wget on this node"
fi
"""

_REST = r"""
SYSCTLS="net/ipv4/ip_forward net/ipv6/conf/all/forwarding net/ipv4/conf/all/route_localnet net/ipv4/conf/all/rp_filter
net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables net/netfilter/nf_conntrack_tcp_be_liberal"
NUMBERS="net/netfilter/nf_conntrack_max net/netfilter/nf_conntrack_count"
values() {
  if have grep; then (cd /proc/sys && grep '' $SYSCTLS $NUMBERS /dev/null 2>/dev/null)
  else
    # Of a switch the first digit says whether it is on; a number whose first digit alone can be read is left out.
    SEEN=$(show /proc/sys/kernel/pid_max)
    if [ ${#SEEN} -lt 2 ]; then NUMBERS=; fi
    for s in $SYSCTLS $NUMBERS; do
      if [ -r "/proc/sys/$s" ] && v=$(show "/proc/sys/$s" 2>/dev/null); then printf '%s:%s\n' "$s" "$v"; fi
    done
  fi
}
sysctls() {
  values | while IFS=: read -r r v; do
    n= r=$r/
    while [ -n "$r" ]; do n=$n${n:+.}${r%%/*} r=${r#*/}; done
    printf '%s = %s\n' "$n" "$v"
  done
}
section sysctl.txt sysctls
if have ip; then section addresses.txt $GENTLE ip -o addr show; fi
if have date; then section clock.txt date +%s; fi
if [ -n "$PROXY" ] && have cat; then section kube-proxy-cmdline.txt cat "$PROXY/cmdline"; fi
tools() {
  printf 'iptables: %s\nip6tables: %s\n' "$V4" "$V6"
  if [ -n "$NFTABLES" ]; then printf 'nft: %s\n' "$($NFT nft -v 2>/dev/null)"; fi
  printf 'legacy tables (IPv4): %s\nlegacy tables (IPv6): %s\n' "$(echo $LEGACY4)" "$(echo $LEGACY6)"
  printf 'nf_tables: %s\n' "${NFTABLES:-not loaded}"
  printf 'kube-proxy process: %s\n' "${PROXY:-$SEEN}"
  if [ -n "$IPT$NFT" ]; then printf 'through: %s\n' "$INSIDE"; fi
}
section tools.txt tools
"""

_CONNECTIONS = r"""
# Connections to the Services asked for, UDP first, bounded. Only what is there already is asked: conntrack makes the kernel
# load nf_conntrack_netlink, and we are not to be the first to do so.
CT=
NETLINK=yes
for m in "/lib/modules/$K_RELEASE/kernel/net/netfilter/nf_conntrack_netlink.ko"*; do
  if [ -e "$m" ] && [ ! -d /sys/module/nf_conntrack_netlink ]; then NETLINK=; fi
done
if [ ! -e /proc/sys/net/netfilter/nf_conntrack_count ]; then CT=none
elif [ -n "$NETLINK" ] && have conntrack; then CT=conntrack
elif [ -r /proc/net/nf_conntrack ] && have grep; then CT=/proc
elif [ -n "$NETLINK" ] && [ -n "$INSIDE" ] && $INSIDE conntrack -V >/dev/null 2>&1 </dev/null; then CT="$INSIDE conntrack"
fi
if have head; then most() { head -n @MOST@; }; else most() { show /dev/stdin; }; fi
if have grep && [ -n '@CHOSEN@' ]; then wanted() { grep -F -e '# ' @WORDS@; }; else wanted() { show /dev/stdin; }; fi
entries() {
  case $CT in
    /proc) $GENTLE grep -e "^$2 .* $1 " /proc/net/nf_conntrack; printf '# status 0\n' ;;
    *) $GENTLE $CT -L -f "$2" -p "$1" 2>/dev/null; printf '# status %s\n' "$?" ;;
  esac
}
connections() {
  for p in udp tcp; do
    for f in ipv4 ipv6; do
      printf '# %s %s\n' "$p" "$f"
      entries "$p" "$f" | wanted | most
    done
  done
  printf '# end\n'
}
if [ "$CT" = none ]; then note conntrack.txt "the kernel tracks no connections"
elif [ -z "$CT" ]; then note conntrack.txt "neither conntrack nor /proc/net/nf_conntrack is there to be read"
else section conntrack.txt connections
fi
"""

MOST_CONNECTIONS = 20000
"""Lines of each protocol and family that a node gives of its connections: 3 MB."""

_MOST_WORDS = 400
"""Above so many addresses and ports, a node is not asked to choose among its connections: it gives what comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Which connections are read: those to these addresses and node ports; with neither, all."""

    addresses: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()

    def words(self) -> str:
        """What `grep -F` looks for, as its arguments."""
        if len(self.addresses) + len(self.ports) > _MOST_WORDS:
            return ""
        spelled = [spelling for address in map(shown_address, self.addresses) for spelling in dict.fromkeys(
            (address, ip_address(address).exploded)
        )]  # fmt: skip
        return words(*(word for a in spelled for word in ("-e", f" dst={a} ")), *(
            word for port in self.ports for word in ("-e", f" dport={int(port)} ")
        ))  # fmt: skip


_FRAME = r"""
K=@NONCE@
main() {
exec 4>&1
@PARTS@
printf '\n%s done\n' "$K"
}
case "@GZIP@$(command -v gzip 2>/dev/null)" in
yes?*) printf '%s start gzip\n' "$K"; main </dev/null | gzip -1 -c ;;
*) printf '%s start plain\n' "$K"; main </dev/null ;;
esac
exit
"""


def shown_address(text: str) -> str:
    """An address of the API printed anew from its number. Raises ValueError for anything else."""
    return address_text(number(text), 6 if ":" in text else 4)


def words(*arguments: object) -> str:
    """Arguments as words of a shell's line: nothing in them means anything to the shell.

    This is the only way for a value to get into a script; `tests/collect/test_scripts.py` tries every script builder with
    hostile values.
    """
    return " ".join(shlex.quote(str(argument)) for argument in arguments)


def new_nonce() -> str:
    """A word that nothing on any node can know beforehand."""
    return "svcroute-" + secrets.token_hex(16)


def node_script(
    nonce: str, *, tools: str = "host", compress: bool = True, connections: Connections | None = None
) -> str:
    """The script for `sh -s`. With `tools` "container", iptables and nft are those of the kube-proxy container.

    `connections`: also read these from the connection-tracking table.

    It ends itself with `exit`: a transport that cannot close standard input still sees it end.
    """
    if tools not in ("host", "container"):
        raise ValueError(f"tools is host or container, not {tools!r}")
    text = "".join((_SETTINGS, _KUBE_PROXY_PROCESS, _CONTAINER, _BACKENDS, _SAVES, _NFT, _HTTP, _REST))
    if connections is not None:
        chosen = connections.words()
        more = _CONNECTIONS.replace("@MOST@", str(MOST_CONNECTIONS)).replace("@CHOSEN@", "yes" if chosen else "")
        text += more.replace("@WORDS@", chosen)
    return _filled(text, nonce, tools=tools, compress=compress)


def framed_script(nonce: str, body: str) -> str:
    """A script of its own in the same frame: `section NAME COMMAND…` for each thing that it prints, `note NAME WHY`."""
    return _filled(_SETTINGS + body, nonce, tools="host", compress=True)


def _filled(parts: str, nonce: str, *, tools: str, compress: bool) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", nonce):
        raise ValueError(f"not a nonce: {nonce!r}")
    text = _FRAME.replace("@PARTS@", parts)
    for mark, value in (
        ("@NONCE@", nonce),
        ("@TOOLS@", tools),
        ("@GZIP@", "yes" if compress else "no"),
        ("@SECONDS@", str(_TOOL_SECONDS)),
    ):
        text = text.replace(mark, value)
    return text


def framed(nonce: str, sections: Sequence[tuple[str, bytes, bytes, int]], notes: Mapping[str, str] | None = None) -> bytes:
    """What the script would have printed: (name, output, stderr, status) of tools that had to be run one by one.

    `notes`: file -> why it was not even asked for.
    """
    mark = nonce.encode()
    body = b"".join(
        b"\n%s begin %s\n%s\n%s end\n%s\n%d" % (mark, name.encode(), out, mark, err, status)
        for name, out, err, status in sections
    )
    body += b"".join(b"\n%s note %s\n%s" % (mark, name.encode(), why.encode()) for name, why in (notes or {}).items())
    return b"%s start plain\n%s\n%s done\n" % (mark, body, mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """What one run of the script gave: files whose tool ended well, and for the others the reason in one line."""

    files: Mapping[str, str]
    reasons: Mapping[str, str]
    empty: Mapping[str, str]
    """Rule files of which there is nothing to read, and how that is known. No text: it would look like a lost dump."""


def one_line(text: str, limit: int = 300) -> str:
    """Foreign text made fit for one line of a report: control characters gone, white space folded, cut to `limit`."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def parse_sections(data: bytes, nonce: str, *, max_bytes: int = MAX_BYTES) -> NodeReading:
    """Take apart what the script printed. Raises CollectError for anything that is not whole."""
    body = _body(data, nonce, max_bytes)
    mark = f"\n{nonce} ".encode()
    files: dict[str, str] = {}
    reasons: dict[str, str] = {}
    empty: dict[str, str] = {}
    position = body.find(mark)
    if position != 0:
        raise CollectError("the node's output does not begin as the node script's does")
    warned: set[str] = set()
    open_section: tuple[str, bytes] | None = None
    while True:
        start = position + len(mark)
        position = body.find(mark, start)
        if position < 0:
            break
        head, _, content = body[start:position].partition(b"\n")
        words = head.decode("ascii", "replace").split(" ")
        match words:
            case ["begin", name] if open_section is None and _NAME.fullmatch(name) and name not in files:
                open_section = (name, content)
            case ["end"] if open_section is not None:
                verdict, text = _judge(*open_section, content)
                {"file": files, "reason": reasons, "empty": empty}[verdict][open_section[0]] = text
                warned.update(found.decode() for found in _LEGACY_WARNING.findall(content))
                open_section = None
            case ["note", name] if open_section is None and _NAME.fullmatch(name):
                why = one_line(_text(content))
                (empty if why.startswith("no tables: ") else reasons)[name] = why
            case _:
                raise CollectError(f"the node's output is not framed as the script frames it: {one_line(_text(head), 80)}")
    if open_section is not None or body[start:] != b"done\n":
        raise CollectError(_CUT)
    _join_families(files, reasons)
    _tables_json(files, reasons)
    for name in [f"{program}-save.txt" for program in warned]:
        if name not in files:
            reasons.setdefault(name, "the kernel holds legacy tables, as iptables-nft warns")
            empty.pop(name, None)
    return NodeReading(files=files, reasons=reasons, empty=empty)


_LEGACY_WARNING = re.compile(rb"^# Warning: (ip6?tables-legacy) tables present", re.MULTILINE)
"""What iptables-nft says on stderr where /proc/net/ip_tables_names names a table (iptables/nft.c, nft_check_xt_legacy)."""

_NAME = pattern(r"[a-z0-9][a-z0-9.-]*(/ip6?)?")


_MOST_ODD_BYTES = 100_000


def _text(content: bytes) -> str:
    """Text of a node: rules are ASCII but for comments; what is not UTF-8 becomes visible, and nothing is lost.

    Raises CollectError where much of it is no text. To make each byte visible takes half a microsecond under the interpreter's
    lock, and 255 MB of them once stood still for all nodes.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        odd = len(content) - len(content.decode("utf-8", "ignore").encode())
        if odd > _MOST_ODD_BYTES:
            raise CollectError(f"is no text: {odd} of its {len(content)} bytes are not UTF-8") from None
        return content.decode("utf-8", "backslashreplace")


def _body(data: bytes, nonce: str, max_bytes: int) -> bytes:
    """Everything behind the script's first line, decompressed."""
    found = data.find(f"{nonce} start ".encode(), 0, NOISE_LIMIT)
    if found < 0:
        said = one_line(_text(data[:400]), 120)
        raise CollectError(f"the node script did not start{': the node says ' + repr(said) if said else ''}")
    line, newline, rest = data[found : found + 200].partition(b"\n")
    if not newline:
        raise CollectError("the node's output was cut off in its first line")
    rest = data[found + len(line) + 1 :]
    if line.endswith(b" plain"):
        end = rest.rfind(f"\n{nonce} done\n".encode())
        if end < 0:
            raise CollectError(_CUT)
        rest = rest[: end + len(nonce) + 7]
        if len(rest) > max_bytes:
            raise CollectError(f"the node printed more than {max_bytes >> 20} MiB")
        return rest
    if not line.endswith(b" gzip"):
        raise CollectError("the node script's first line is damaged")
    inflate = zlib.decompressobj(wbits=31)
    try:
        body = inflate.decompress(rest, max_bytes + 1)
    except zlib.error as error:
        raise CollectError(f"the node's compressed output is damaged ({one_line(str(error))})") from None
    if len(body) > max_bytes:
        raise CollectError(f"the node printed more than {max_bytes >> 20} MiB (decompressed)")
    if not inflate.eof:
        raise CollectError(_CUT)
    return body


_CUT = "the node's output was cut off: the node script did not run to its end"


def _judge(name: str, content: bytes, ending: bytes) -> tuple[str, str]:
    """What a section is: ("file", text) when its tool ended with status 0 and said something, else why there is none."""
    said, _, status = ending.rpartition(b"\n")
    stderr = one_line(_text(said))
    behind = f": {stderr}" if stderr else ""
    if status != b"0":
        code = one_line(_text(status), 20)
        if code in ("124", "143"):
            return "reason", f"gave no answer within {_TOOL_SECONDS} s{behind}"
        return "reason", f"ended with status {code}{behind}"
    if not content.strip():
        # What iptables-save prints of a kernel that holds no table.
        return ("empty" if name in RULE_FILES else "reason"), f"the tool ended well and printed nothing{behind}"
    try:
        return "file", _cmdline(content) if name == "kube-proxy-cmdline.txt" else _text(content)
    except CollectError as error:
        return "reason", str(error)


def _cmdline(data: bytes) -> str:
    """kube-proxy's argv, an argument a line, values of secret-looking flags left out."""
    arguments = without_secrets(_text(data).rstrip("\0").split("\0"))
    return "".join("".join(c if c.isprintable() else "?" for c in shown) + "\n" for shown in arguments)


_NFT_HEAD = pattern(r'\s*\{"nftables": ?\[\{"metainfo": ?\{[^{}]*\}\}')
_NFT_TAIL = pattern(r"\]\}\s*\Z")


def _join_families(files: dict[str, str], reasons: dict[str, str]) -> None:
    """Make one document of `nft -j list table ip kube-proxy` and the same of ip6, without loading 50 MB of JSON."""
    for name in ("nft-ruleset.json", "nft-ruleset.txt"):
        parts = [files.pop(key) for key in (f"{name}/ip", f"{name}/ip6") if key in files]
        failed = [reasons.pop(key) for key in (f"{name}/ip", f"{name}/ip6") if key in reasons]
        if failed:
            # One family alone would look like a table that is not there.
            reasons[name] = failed[0]
            continue
        if not parts:
            continue
        if name.endswith(".txt") or len(parts) == 1:
            files[name] = "".join(parts)
            continue
        first, second = parts
        tail, head = _NFT_TAIL.search(first, max(0, len(first) - 40)), _NFT_HEAD.match(second)
        if tail is None or head is None:
            reasons[name] = "nft printed JSON of a shape that is not known here"
            continue
        files[name] = first[: tail.start()] + second[head.end() :]


_TABLE = pattern(r"table (\S+) (\S+) \{")
_CHAIN = pattern(r"\tchain (\S+) \{")
_HOOK = pattern(r"\t\ttype (\S+) hook (\S+) (?:devices? .*?)?priority (-?\d+);(?: policy (\w+);)?")


def _tables_json(files: dict[str, str], reasons: dict[str, str]) -> None:
    """Make `nft -j list chains` of its text form, as far as tables and base chains go.

    The JSON itself names every chain: 6 MB on a large node, nearly all of them kube-proxy's.
    """
    text = files.pop("nft-tables.txt", None)
    if text is None:
        if "nft-tables.txt" in reasons:
            reasons["nft-tables.json"] = reasons.pop("nft-tables.txt")
        return
    items: list[dict[str, object]] = [{"metainfo": {"version": "", "json_schema_version": 1}}]
    status, family, table, chain = "0", "", "", ""
    for line in text.splitlines():
        if found := _TABLE.match(line):
            family, table, chain = found[1], found[2], ""
            items.append({"table": {"family": family, "name": table, "handle": 0}})
        elif found := _CHAIN.match(line):
            chain = found[1]
        elif chain and (found := _HOOK.match(line)):
            base = {"type": found[1], "hook": found[2], "prio": int(found[3]), "policy": found[4] or "accept"}
            items.append({"chain": {"family": family, "table": table, "name": chain, "handle": 0, **base}})
        elif line.startswith("status "):
            status = line[7:]
        elif line.strip() not in ("", "}"):
            reasons["nft-tables.json"] = f"nft printed chains in a way that is not known here: {one_line(line, 80)}"
            return
    if status != "0":
        reasons["nft-tables.json"] = f"nft list chains ended with status {status}"
        return
    files["nft-tables.json"] = json.dumps({"nftables": items}) + "\n"


def node_dump(data: bytes, nonce: str, *, node: str, via: str, taken: float, max_bytes: int = MAX_BYTES) -> NodeDump:
    """The dump of one node, from what the script printed. Raises CollectError when no rules could be read at all.

    Why a file is missing stands in tools.txt, in lines that begin with `not read: ` or `empty: `, so that a saved
    snapshot says it too.
    """
    reading = parse_sections(data, nonce, max_bytes=max_bytes)
    files = dict(reading.files)
    if not any(name in files for name in RULE_FILES) and not reading.empty.keys() & _OWN_FILES:
        told = [f"{name}: {reason}" for name, reason in reading.reasons.items() if name in RULE_FILES]
        raise CollectError("no rules could be read: " + ("; ".join(told) or "neither iptables-save nor nft is there"))
    lines = [f"{NOT_READ}{name}: {reason}\n" for name, reason in sorted(reading.reasons.items())]
    lines += [f"{EMPTY}{name}: {reason}\n" for name, reason in sorted(reading.empty.items())]
    files["tools.txt"] = files.get("tools.txt", "") + "".join(lines)
    return NodeDump(node=node, files=files, via=via, taken=taken)


def misprinted(dump: NodeDump) -> bool:
    """Whether the node's iptables is too old for kube-proxy's rules and prints them wrongly.

    Seen as `DNAT [unsupported revision]` (kubernetes issues 95409, 94754) and as `--to-destination :0` (112477, 114537).
    kube-proxy's own container has an iptables that prints them right.
    """
    return any(
        "[unsupported revision]" in text or "--to-destination :0" in text
        for name, text in dump.files.items()
        if name in RULE_FILES
    )


def read_with(read: Callable[[str], NodeDump]) -> NodeDump:
    """Read a node with its own tools ("host"); where they misprint the rules, once more with those of the container.

    When that gives nothing better, the first dump stands: its rules are then unreadable, and are reported as such.
    """
    dump = read("host")
    if misprinted(dump):
        with contextlib.suppress(CollectError):
            again = read("container")
            if not misprinted(again):
                return again
    return dump
