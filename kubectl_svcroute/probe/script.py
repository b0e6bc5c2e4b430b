r"""The script that dials on a node or in a pod, and looks where the connections went.

It is the one script that does something. What it does is bounded by itself, not only by who reads it: so many connections
to each target, so many a second, each given up after so many seconds; tcpdump ends by count and by time. It writes no file
and installs nothing. A TCP connection is opened and closed, and no byte is sent in it; a UDP target gets one datagram each.

For each target it prints one section, `probe-N.txt` (the frame is that of collect/node_script.py):

    # tool python3
    try 1 connected 0.000412 172.18.0.11 43210 @17…   number, result, seconds, local address and port (- 0: not known), when
    pending 43211                                     bash alone: the local port of a connection that was given up
    1732460000.1 eth0 Out IP 172.18.0.11.43210 > …    with --capture: tcpdump's lines, as they came
        [NEW] tcp 6 120 SYN_SENT src=…                what conntrack saw begin meanwhile
    # flows conntrack
    tcp 6 117 TIME_WAIT src=…                         entries of the connections above, and of no other
    # status 0

A dialling tool is used as far as it goes: python3 and bash know the local port of a connection by themselves, nc and curl are
told one. bash cannot say it of a connection that was refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..collect.node_script import framed_script, shown_address, words
from ..model.fast_dataclass import dataclass
from ..model.net import Frontend, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is done, to each target from each place."""

    count: int = 20
    rate: int = 20
    """Connections begun in a second."""
    patience: float = 2.0
    """Seconds after which a connection is given up."""
    capture: bool = False

    @property
    def watch(self) -> int:
        """After so many seconds what watches one target ends by itself, should nobody be there any more to end it."""
        return int(self.count / self.rate + self.count * self.patience + 30)

    def usual(self, targets: int) -> float:
        """The longest that it takes where connections overlap, as with python3 and bash."""
        return 10 + targets * (self.count / self.rate + self.patience + (5 if self.capture else 2))

    def seconds(self, targets: int) -> float:
        """The longest that the script can take, looking included."""
        each = self.count / self.rate + 2 * self.patience + 5
        # nc and curl wait for one connection after the other.
        return 20 + targets * (each + self.count * self.patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One frontend to be dialled."""

    number: int
    frontend: Frontend
    payload: bytes = b""
    """UDP's datagram."""
    hosts: tuple[str, ...] = ()
    """Endpoints' addresses and ports that a capture has to watch for besides, as `address port`."""
    ports: tuple[int, ...] = ()


PYTHON = r"""
import errno, os, select, socket, sys, time
kind, host = sys.argv[1], sys.argv[2]
port, count = int(sys.argv[3]), int(sys.argv[4])
rate, patience = float(sys.argv[5]), float(sys.argv[6])
payload = bytes(bytearray.fromhex(sys.argv[7])) if len(sys.argv) > 7 else b""
family = socket.AF_INET6 if ":" in host else socket.AF_INET
udp = kind == "udp"
pending = {}
def say(number, result, begun, here, detail=""):
    took = time.time() - begun
    print("try %d %s %.6f %s %d @%.6f %s" % (number, result, took, here[0], here[1], begun, detail))
    sys.stdout.flush()
def result_of(code):
    if code == errno.ECONNREFUSED: return "refused"
    if code == errno.ETIMEDOUT: return "timeout"
    if code in (errno.EHOSTUNREACH, errno.ENETUNREACH): return "unreachable"
    return "failed"
def local(sock):
    try: return sock.getsockname()[:2]
    except OSError: return ("-", 0)
def settle(sock, code, answered):
    number, begun, here = pending.pop(sock)
    if code == 0 and answered: say(number, "connected", begun, here)
    else: say(number, result_of(code), begun, here, errno.errorcode.get(code, str(code)))
    sock.close()
def wait(until):
    while True:
        now = time.time()
        for sock in list(pending):
            number, begun, here = pending[sock]
            if now - begun >= patience:
                del pending[sock]
                say(number, "timeout", begun, here)
                sock.close()
        ends = [begun + patience for _, begun, _ in pending.values()] + [until]
        left = min(ends) - time.time()
        if time.time() >= until: return
        socks = list(pending)
        if not socks:
            time.sleep(max(0.0, min(left, until - time.time())))
            continue
        ready = select.select(socks if udp else [], [] if udp else socks, [], max(0.0, left))
        for sock in ready[0] + ready[1]:
            if udp:
                try:
                    sock.recv(4096)
                    settle(sock, 0, True)
                except OSError as error: settle(sock, error.errno, False)
            else:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                settle(sock, code, True)
for number in range(1, count + 1):
    sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    sock.setblocking(False)
    begun = time.time()
    code = sock.connect_ex((host, port))
    here = local(sock)
    pending[sock] = (number, begun, here)
    if udp and code == 0:
        try: sock.send(payload)
        except OSError as error: code = error.errno
    if code not in (0, errno.EINPROGRESS): settle(sock, code, False)
    elif code == 0 and not udp: settle(sock, 0, True)
    wait(begun + 1.0 / rate)
while pending:
    wait(min(begun + patience for _, begun, _ in pending.values()) + 0.001)
"""

BASH = r"""
kind=$1 host=$2 port=$3 count=$4 rate=$5 patience=$6 payload=$7
LC_ALL=C
# Each job a process group of its own, so that all of it can be ended.
set -m
now() { local t=${EPOCHREALTIME/[.,]/}; [ -n "$t" ] && printf %s "$t" || printf %s000000 "$(date +%s)"; }
hex=$(printf :%04X "$port")
v=; case $host in *:*) v=6 ;; esac
mine() {
  inode=$(readlink "/proc/$BASHPID/fd/3"); inode=${inode#*[}; inode=${inode%]}
  while read -r _ l r st _ _ _ _ _ i _; do
    if [ "$i" = "$inode" ]; then printf %s "$((16#${l##*:}))"; return; fi
  done <"/proc/net/$kind$v"
  printf 0
}
one() {
  t=$(now)
  if ! exec 3<>"/dev/$kind/$host/$port"; then return; fi
  d=$(( $(now) - t ))
  p=$(mine)
  if [ "$kind" = udp ]; then
    printf "$payload" >&3
    IFS= read -r -d "" -n 1 -t "$patience" _ <&3; rc=$?
    if [ "$rc" -gt 128 ]; then r=timeout; elif [ "$rc" = 0 ]; then r=connected; else r=refused; fi
    d=$(( $(now) - t ))
  else r=connected
  fi
  printf "try %s %s %d.%06d - %s\n" "$1" "$r" $((d / 1000000)) $((d % 1000000)) "$p"
}
# Its last line says what became of it; bash says "connect: Connection refused" on stderr.
run() {
  out=$( (one "$1") 2>&1 )
  case $out in
    *"try $1 "*) printf "%s\n" "try ${out##*try }" ;;
    *refused*) printf "try %s refused - - 0\n" "$1" ;;
    *nreachable*|*"o route"*) printf "try %s unreachable - - 0\n" "$1" ;;
    *"timed out"*) printf "try %s timeout - - 0\n" "$1" ;;
    *) printf "try %s failed - - 0 %s\n" "$1" "${out//[^A-Za-z0-9 :]/}" ;;
  esac
}
pids=()
for ((n = 1; n <= count; n++)); do
  run "$n" &
  pids+=($!)
  sleep "$(printf 0.%03d $((999 / rate)))" 2>/dev/null || sleep 1
done
for ((i = 0; i < 100; i++)); do
  [ -z "$(jobs -rp)" ] && break
  [ "$i" -ge "$(( ${patience%.*} * 10 + 5 ))" ] && break
  sleep 0.1 2>/dev/null || { sleep 1; i=$((i + 9)); }
done
if [ -n "$(jobs -rp)" ]; then
  while read -r _ l r st _; do
    if [ "$st" = 02 ] && [ ":${r##*:}" = "$hex" ]; then printf "pending %s\n" "$((16#${l##*:}))"; fi
  done <"/proc/net/tcp$v"
  for ((n = 1; n <= count; n++)); do
    pid=${pids[n - 1]}
    if kill -0 "$pid" 2>/dev/null; then
      kill -9 -- "-$pid"
      printf "try %s timeout - - 0\n" "$n"
    fi
  done
fi
wait 2>/dev/null
exit 0
"""

_DIAL = r"""
PYTHON='@PYTHON@'
BASHED='@BASH@'
TOOL=
if have python3 && python3 -c 'import select, socket' >/dev/null 2>&1; then TOOL=python3
elif have bash && have sleep && have date && bash -c '[ -n "$BASHPID" ] && [ -r /proc/net/tcp ]' 2>/dev/null &&
  case $(bash -c ': </dev/tcp/127.0.0.1/0' 2>&1) in *"No such file"*) false ;; esac; then TOOL=bash
# busybox may be built with an nc that knows neither -z nor -u; without a host, no nc dials anything.
elif have nc && case $(nc -z 2>&1 </dev/null) in *"invalid option"*|*"nrecognized option"*) false ;; esac; then TOOL=nc
elif have curl; then TOOL=curl
fi
# dial KIND HOST PORT COUNT RATE PATIENCE HEX OCTAL
dial() {
  case $TOOL in
    python3) python3 -c "$PYTHON" "$1" "$2" "$3" "$4" "$5" "$6" "$7" ;;
    bash) bash -c "$BASHED" probe "$1" "$2" "$3" "$4" "$5" "$6" "$8" 2>/dev/null ;;
    nc|curl) slowly "$@" ;;
  esac
}
# One after the other, and a pause of a second after as many as a second may have: `sleep` takes no fractions everywhere.
slowly() {
  n=0 at=$((20000 + $$ % 9000))
  while [ "$n" -lt "$4" ]; do
    n=$((n + 1)) at=$((at + 1))
    if [ "$TOOL" = nc ]; then
      if [ "$1" = udp ]; then
        said=$(printf "$8" | nc -u -w "${6%.*}" -p "$at" "$2" "$3" 2>/dev/null | {
          # What has no line end is an answer too; silence is none.
          IFS= read -r x || [ -n "$x" ]; printf %s "$?"; })
        printf 'try %s %s - - %s\n' "$n" "$( [ "$said" = 0 ] && echo connected || echo timeout )" "$at"
        continue
      fi
      said=$(nc -v -z -w "${6%.*}" -p "$at" "$2" "$3" 2>&1 </dev/null); rc=$?
      case $rc/$said in
        0/*) r=connected ;;
        *efused*) r=refused ;;
        *nreachable*|*"o route"*) r=unreachable ;;
        *"timed out"*|*"in progress"*|*imeout*) r=timeout ;;
        *"in use"*) r=failed ;;
        */?*) r=failed ;;
        *) r=timeout ;;
      esac
      printf 'try %s %s - - %s\n' "$n" "$r" "$at"
    else
      case $2 in *:*) h="[$2]" ;; *) h=$2 ;; esac
      said=$(curl -q -s -g --noproxy '*' --connect-timeout "${6%.*}" -m "${6%.*}" --local-port "$at" -o /dev/null \
        -w '%{time_connect} %{local_port}' "telnet://$h:$3" 2>/dev/null </dev/null); rc=$?
      case $rc/$said in
        */0.000000*|*/) case $rc in 7) r=refused ;; 28) r=timeout ;; *) r=failed ;; esac ;;
        *) r=connected ;;
      esac
      d=${said%% *}
      printf 'try %s %s %s - %s\n' "$n" "$r" "${d:--}" "$at"
    fi
    if [ "$((n % $5))" = 0 ]; then sleep 1; fi
  done
}
"""

_LOOK = r"""
SEEN=
if [ ! -e /proc/sys/net/netfilter/nf_conntrack_count ]; then SEEN=
else
  # conntrack makes the kernel load nf_conntrack_netlink; we are not to be the first to ask for it.
  NETLINK=yes
  for m in "/lib/modules/$(cat /proc/sys/kernel/osrelease 2>/dev/null)/kernel/net/netfilter/nf_conntrack_netlink.ko"*; do
    if [ -e "$m" ] && [ ! -d /sys/module/nf_conntrack_netlink ]; then NETLINK=; fi
  done
  if [ -n "$NETLINK" ] && have conntrack; then SEEN=conntrack
  elif [ -r /proc/net/nf_conntrack ]; then SEEN=/proc/net/nf_conntrack
  fi
fi
# entries KIND HOST PORT FAMILY
entries() {
  case $SEEN in
    conntrack) $GENTLE conntrack -L -f "$4" -p "$1" -d "$2" --dport "$3" 2>/dev/null; printf '# status %s\n' "$?" ;;
    /*) $GENTLE grep -e " $1 .* dport=$3 " /proc/net/nf_conntrack; printf '# status 0\n' ;;
  esac
}
# look KIND HOST PORT FAMILY PORTS: the entries of these local ports; of all where there is no grep.
look() {
  printf '# flows %s\n' "${SEEN:-none}"
  if [ -z "$SEEN" ]; then printf '# status 0\n'; return; fi
  if [ -n "$5" ] && have grep; then
    words=
    for p in $5; do words="$words -e sport=$p[^0-9]"; done
    entries "$1" "$2" "$3" "$4" | grep -e '# status' $words
  else entries "$1" "$2" "$3" "$4"
  fi
}
ports() {
  while read -r word a b c d e rest; do
    case $word in
      try) if [ "${e:-0}" -gt 0 ] 2>/dev/null; then printf '%s ' "$e"; fi ;;
      pending) printf '%s ' "$a" ;;
    esac
  done
}
"""

_PROBE = r"""
# probe KIND HOST PORT COUNT RATE PATIENCE HEX OCTAL FAMILY FILTER
probe() {
  printf '# tool %s\n' "${TOOL:-none}"
  DUMP=
  if [ -n "${10}" ]; then
    if have tcpdump && have timeout && have sleep; then
      timeout @WATCH@ tcpdump -l -nn -tt -i any -c $((8 * $4 + 20)) "${10}" 2>/dev/null &
      DUMP=$!
      sleep 2
      if ! kill -0 "$DUMP" 2>/dev/null; then DUMP=; printf '# capture none\n'; fi
    else printf '# capture none\n'
    fi
  fi
  # A connection that a pod refuses is forgotten at once: only who listens meanwhile learns where it went.
  EVENTS=
  if [ "$SEEN" = conntrack ] && have timeout && have sleep; then
    timeout @WATCH@ conntrack -E -e NEW -f "$9" -p "$1" -d "$2" --dport "$3" 2>/dev/null </dev/null &
    EVENTS=$!
    sleep 0.2 2>/dev/null || sleep 1
  fi
  if [ -n "$TOOL" ]; then said=$(dial "$1" "$2" "$3" "$4" "$5" "$6" "$7" "$8"); else said=; fi
  if [ -n "$DUMP" ]; then sleep 1; fi
  for p in $DUMP $EVENTS; do kill "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
  printf '%s\n' "$said"
  look "$1" "$2" "$3" "$9" "$(printf '%s\n' "$said" | ports)"
}
"""


_WATCH = r"""
# watch SECONDS COUNT FILTER
watch() {
  if have tcpdump && have timeout; then timeout "$1" tcpdump -l -nn -tt -i any -c "$2" "$3" 2>/dev/null; echo
  else printf '# capture none\n'
  fi
}
"""


def dial_script(nonce: str, targets: Sequence[Target], bounds: Bounds) -> str:
    """The script that dials the targets, one after the other, and looks where each connection went."""
    lines = [_dialler(), _LOOK, _PROBE.replace("@WATCH@", str(bounds.watch))]
    for target in targets:
        front = target.frontend
        capture = capture_filter(target) if bounds.capture else ""
        lines.append(
            _section(
                f"probe-{target.number}.txt", "probe", _kind(front), shown_address(front.address), front.port, bounds.count,
                bounds.rate, f"{bounds.patience:g}", target.payload.hex(), _octal(target.payload), _family(front), capture,
            )
        )  # fmt: skip
    return framed_script(nonce, "".join(lines))


def look_script(nonce: str, targets: Sequence[Target]) -> str:
    """The script that only looks, on the node of a pod that dialled: `Target.ports` are the pod's local ports."""
    lines = [_LOOK]
    for target in targets:
        front = target.frontend
        ports = " ".join(map(str, target.ports))
        where = (_kind(front), shown_address(front.address), front.port, _family(front))
        lines.append(_section(f"probe-{target.number}.txt", "look", *where, ports))
    return framed_script(nonce, "".join(lines))


def watch_script(nonce: str, targets: Sequence[Target], bounds: Bounds) -> str:
    """The script that captures on a pod's node while the pod dials: first packets to all targets, for as long as that takes."""
    where = " or ".join(f"({capture_filter(target)})" for target in targets)
    seconds = int(WATCH_LEAD + len(targets) * (bounds.count / bounds.rate + bounds.patience + 1) + 4)
    return framed_script(
        nonce, _WATCH + _section("capture.txt", "watch", seconds, 16 * bounds.count * len(targets) + 20, where)
    )


def _section(name: str, function: str, *arguments: object) -> str:
    """A line that calls one of the functions above; each argument is one word, whatever is in it."""
    return f"section {words(name, function, *arguments)}\n"


WATCH_LEAD = 4.0
"""Seconds that tcpdump on a pod's node is given to begin before the pod dials."""


def capture_filter(target: Target) -> str:
    """What tcpdump is asked for: first packets to the frontend, and to where the rules send them."""
    front = target.frontend
    places = [(front.address, front.port), *((h, int(p)) for h, _, p in (x.partition(" ") for x in target.hosts))]
    where = " or ".join(f"(dst host {shown_address(host)} and dst port {port})" for host, port in dict.fromkeys(places))
    if front.protocol is Protocol.UDP:
        return f"udp and ({where})"
    # Flags of TCP: SYN without ACK. pcap's `tcp[tcpflags]` knows IPv4 alone.
    first = "ip6[53] & 0x12 = 2" if front.family == 6 else "tcp[13] & 0x12 = 2"
    return f"{first} and ({where})"


def _dialler() -> str:
    # Single quotes end the shell's word: neither program has any.
    return _DIAL.replace("@PYTHON@", PYTHON.strip()).replace("@BASH@", BASH.strip())


def _kind(frontend: Frontend) -> str:
    return frontend.protocol.value.lower()


def _family(frontend: Frontend) -> str:
    return "ipv6" if frontend.family == 6 else "ipv4"


def _octal(payload: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in payload)
