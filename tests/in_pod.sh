#!/usr/bin/env bash
# Run a command as a pod of the Job would: in a mount namespace of its own, with a service account's files where Kubernetes
# puts them, a termination log, a root file system that cannot be written but for /tmp, and no capability but those named.
#
#   in_pod.sh ACCOUNT-FOLDER TMP-FOLDER UID CAPABILITIES COMMAND...        (CAPABILITIES: net_admin,net_raw, or -)
#
# Started by tests with `unshare --mount`, so that nothing of it is seen outside.
set -euo pipefail
account=$1 tmp=$2 uid=$3 caps=$4
shift 4
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$account"/* /run/secrets/kubernetes.io/serviceaccount/
chmod -R a+rX /run/secrets
new=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$new"
for name in null zero random urandom; do
  touch "$new/$name"
  mount --bind "/dev/$name" "$new/$name"
done
ln -s /proc/self/fd "$new/fd"
touch "$tmp/termination-log" "$new/termination-log"
chmod 666 "$tmp/termination-log"
mount --bind "$tmp/termination-log" "$new/termination-log"
mount --move "$new" /dev
mkdir -p "$tmp/tmp"
chmod 1777 "$tmp/tmp"
mount --bind "$tmp/tmp" "$tmp/tmp"
mount -o remount,ro,bind / 2>/dev/null || true
keep=-all
if [ "$caps" != - ]; then keep=-all,+${caps//,/,+}; fi
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --bounding-set="$keep" --inh-caps=-all --no-new-privs "$@"
