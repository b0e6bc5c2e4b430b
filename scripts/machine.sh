#!/usr/bin/env bash
# What has to be on a machine before anything else can run. Called by the Makefile.
#
#   scripts/machine.sh venv DIR     a virtual environment in DIR, with a Python of 3.10 or later
#   scripts/machine.sh test-tools   the programs that the tests start: sshd, iptables, nft, ip, kubectl, chromium, …
#   scripts/machine.sh dist-tools   what an archive is built with: binutils, and Python's shared library
#
# Packages are installed only where something is missing, and only by root on a machine with apt-get; elsewhere it says
# what is missing. Nothing is ever removed or upgraded.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

install() {
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  # A machine that was never updated knows no package: try, update, try again.
  apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return
  apt-get update -qq </dev/null >&2
  apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# The first Python that is new enough and can make virtual environments; PYTHON names one that goes before all others.
find_python() {
  local name
  for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$name" >/dev/null 2>&1 && fits "$name" && has_venv "$name"; then
      command -v "$name"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  if ! python=$(find_python); then
    if ! can_install; then
      say "error: no Python of 3.10 or later with the venv module here."
      say "Install one (Debian and Ubuntu: sudo apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3"
      return 1
    fi
    install python3 python3-venv
    if ! python=$(find_python); then
      say "error: this system's python3 is $(python3 --version 2>&1): 3.10 or later is needed; name one: make PYTHON=/path/to/python3"
      return 1
    fi
  fi
  "$python" -m venv "$1"
}

# program -> the Debian package that brings it
DIST_TOOLS=(objdump:binutils strip:binutils)
TEST_TOOLS=(
  sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client
  iptables-legacy-restore:iptables iptables-nft-restore:iptables ip6tables-legacy-restore:iptables nft:nftables
  conntrack:conntrack ip:iproute2 busybox:busybox tcpdump:tcpdump curl:curl gzip:gzip nc:netcat-openbsd
  kubectl:kubernetes-client
  chromium:chromium dot:graphviz shellcheck:shellcheck
  "${DIST_TOOLS[@]}"
)

# What draws Mermaid, as GitHub and GitLab do: one script, which the tests load into Chromium. It is on npm alone.
MERMAID=11.12.0
MERMAID_AT=build/mermaid

# Debian's python3 is one piece; the shared library that an archive needs is a package of its own.
shared_python() {
  local python
  python=$(find_python) || return 0
  "$python" - <<'PYTHON'
import ctypes, os, sys, sysconfig
if os.path.realpath(sys.executable).startswith("/usr/bin/"):
    try:
        ctypes.CDLL(sysconfig.get_config_var("INSTSONAME") or "")
    except OSError:
        print("libpython%d.%d" % sys.version_info[:2])
PYTHON
}

# tools WHAT-FOR [PROGRAM:PACKAGE]...
tools() {
  local what=$1 pair missing=() packages=()
  shift
  for pair in "$@"; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1; then
      missing+=("${pair%%:*}")
      case " ${packages[*]-} " in *" ${pair##*:} "*) ;; *) packages+=("${pair##*:}") ;; esac
    fi
  done
  pair=$(shared_python)
  [ -z "$pair" ] || { missing+=("$pair"); packages+=("$pair"); }
  if [ ${#missing[@]} = 0 ]; then
    :
  elif can_install; then
    # One package that this system does not have must not cost the others.
    install "${packages[@]}" || for pair in "${packages[@]}"; do
      install "$pair" || say "warning: $pair could not be installed: $what"
    done
  else
    say "note: no ${missing[*]} here, and no way to install them: $what"
  fi
}

test_tools() {
  tools "tests that need them are skipped, and say so" "${TEST_TOOLS[@]}"
  [ -s "$MERMAID_AT/mermaid-$MERMAID.min.js" ] || mermaid ||
    say "note: no mermaid $MERMAID here, and no npm that brings it: tests that need it are skipped, and say so"
}

mermaid() {
  command -v npm >/dev/null 2>&1 || { can_install && install npm; } || return
  say "installing mermaid $MERMAID into $MERMAID_AT"
  rm -rf "$MERMAID_AT" && mkdir -p "$MERMAID_AT" &&
    (cd "$MERMAID_AT" && npm pack --silent "mermaid@$MERMAID" </dev/null >/dev/null &&
      tar -xzf "mermaid-$MERMAID.tgz" --strip-components 2 package/dist/mermaid.min.js &&
      rm "mermaid-$MERMAID.tgz" && mv mermaid.min.js "mermaid-$MERMAID.min.js")
}

case ${1-} in
  venv) make_venv "$2" ;;
  test-tools) test_tools ;;
  dist-tools) tools "no archive can be built" "${DIST_TOOLS[@]}" ;;
  *) say "usage: $0 venv DIR | test-tools | dist-tools"; exit 2 ;;
esac
