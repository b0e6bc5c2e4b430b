#!/usr/bin/env bash
# Try the project on stock machines: a fresh Debian with git, make and certificates, and nothing else. Called by the Makefile.
#
#   scripts/stock.sh try SUITE TARGET...   a clone of HEAD in a fresh Debian SUITE (bookworm, trixie); make TARGET there, each timed
#   scripts/stock.sh image                 build image/Dockerfile on a fresh Debian, and start what was built
#
# Needs root, debootstrap and (for the image) buildah; `apt-get install debootstrap buildah` brings them. Everything is below
# build/stock/; what was mounted there is unmounted at the end. STOCK_MIRROR names another mirror than deb.debian.org.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

AT=$PWD/build/stock
MIRROR=${STOCK_MIRROR:-http://deb.debian.org/debian}
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

say() { printf '%s\n' "$*" >&2; }

need() {
  local program
  for program in "$@"; do
    if ! command -v "$program" >/dev/null 2>&1; then
      say "error: no $program here (apt-get install $program)"
      return 1
    fi
  done
  [ "$(id -u)" = 0 ] || { say "error: needs root"; return 1; }
}

# A fresh system, unpacked from a tarball that is made once: root SUITE DIR
root() {
  local suite=$1 folder=$2
  mkdir -p "$AT"
  if [ ! -s "$AT/$suite.tar" ]; then
    say "debootstrap $suite"
    rm -rf "$AT/new"
    debootstrap --variant=minbase --include=git,make,ca-certificates "$suite" "$AT/new" "$MIRROR" >"$AT/debootstrap.log"
    tar -C "$AT/new" -cf "$AT/$suite.tar.part" . && mv "$AT/$suite.tar.part" "$AT/$suite.tar"
    rm -rf "$AT/new"
  fi
  mkdir -p "$folder"
  tar -C "$folder" -xf "$AT/$suite.tar"
  # Where the network has a certificate authority of its own, this machine knows it.
  cp "$CERTIFICATES" "$folder$CERTIFICATES"
  cp /etc/resolv.conf "$folder/etc/resolv.conf"
}

unmount() {
  local folder=$1 point
  for point in dev/pts dev/shm dev sys proc run; do
    ! mountpoint -q "$folder/$point" || umount -l "$folder/$point"
  done
}

try() {
  local suite=$1 folder target began status=0 before
  shift
  need debootstrap
  folder=$AT/try-$suite
  rm -rf --one-file-system "$folder"
  root "$suite" "$folder"
  trap 'unmount "$folder"' EXIT
  mount -t proc proc "$folder/proc"
  mount -t sysfs sys "$folder/sys"
  mount --bind /dev "$folder/dev"
  mount --bind /dev/pts "$folder/dev/pts"
  mount -t tmpfs -o mode=1777 shm "$folder/dev/shm"
  mount -t tmpfs run "$folder/run"
  git clone -q --no-hardlinks . "$folder/work/svcroute"
  [ ! -d ../shared ] || cp -a ../shared "$folder/work/shared"
  for target in "$@"; do
    # shellcheck disable=SC2016 # the braces are dpkg's
    before=$(chroot "$folder" dpkg-query -f '${Package}\n' -W | sort)
    began=$SECONDS
    chroot "$folder" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true \
      PIP_CERT="$CERTIFICATES" SSL_CERT_FILE="$CERTIFICATES" NODE_EXTRA_CA_CERTS="$CERTIFICATES" \
      sh -c "cd /work/svcroute && make $target" >"$AT/$suite-$target.log" 2>&1 </dev/null || status=$?
    # shellcheck disable=SC2016 # as above
    printf '%s: make %s: status %d, %d s; installed %s packages of Debian\n' "$suite" "$target" "$status" $((SECONDS - began)) \
      "$(chroot "$folder" dpkg-query -f '${Package}\n' -W | sort | comm -13 <(printf '%s\n' "$before") - | wc -l)"
    [ "$status" = 0 ] || { tail -n 30 "$AT/$suite-$target.log" >&2; return "$status"; }
  done
  unmount "$folder"
  rm -rf --one-file-system "$folder"
}

image() {
  local folder container mounted
  need debootstrap buildah
  folder=$AT/base
  rm -rf --one-file-system "$folder"
  root trixie "$folder"
  export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF=$AT/storage.conf
  printf '[storage]\ndriver = "vfs"\nrunroot = "%s"\ngraphroot = "%s"\n' "$AT/containers-run" "$AT/containers" >"$CONTAINERS_STORAGE_CONF"
  trap 'rm -rf --one-file-system "$AT/containers" "$AT/containers-run" "$AT/base"' EXIT
  container=$(buildah from scratch)
  buildah add -q "$container" "$folder" / >/dev/null
  buildah commit -q "$container" localhost/base >/dev/null
  buildah build -q -f image/Dockerfile --build-arg BASE=localhost/base --build-arg COMMIT="$(git rev-parse HEAD)" \
    --volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg PIP_CERT="$CERTIFICATES" -t localhost/svcroute . >"$AT/image.log" 2>&1 ||
    { tail -n 30 "$AT/image.log" >&2; return 1; }
  container=$(buildah from localhost/svcroute)
  mounted=$(buildah mount "$container")
  started() {
    chroot --userspec=65532:65532 "$mounted" /usr/bin/env -i PATH=/opt/svcroute/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp "$@"
  }
  started kubectl-svcroute version
  started kubectl-svcroute version -o json | grep -q '"installed": "image"'
  started kubectl-svcroute demo -o brief || [ $? = 1 ]
  started sh -c 'command -v conntrack curl ip ipset iptables-save ipvsadm nft' >/dev/null
  if find "$mounted"/opt/svcroute/lib/python3*/site-packages -maxdepth 1 -name 'setuptools*' -o -maxdepth 1 -name '*distutils*' | grep .; then
    say "error: what only the build needs is in the image"
    return 1
  fi
  [ "$(find "$mounted/opt/svcroute" -name 'root.*.pyc' | wc -l)" -gt 0 ] || { say "error: the modules are not compiled"; return 1; }
  echo "image: it starts"
}

case ${1-} in
  try) shift; try "$@" ;;
  image) image ;;
  *) say "usage: $0 try SUITE TARGET... | image"; exit 2 ;;
esac
