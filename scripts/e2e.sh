#!/usr/bin/env bash
# A real cluster, healthy and then hurt: the plugin has to say nothing, then name the fault, then say nothing again.
#
#   scripts/e2e.sh MODE KUBERNETES PLUGIN      e2e.sh nftables v1.34.0 .venv/bin/kubectl-svcroute
#
# Needs docker, kind and kubectl. Makes a cluster of its own and takes it away at the end (KEEP=1 keeps it). Modes that the
# plugin does not verify have to come out as not verified (status 3), never as a pass.
set -euo pipefail

MODE=${1:?a mode of kube-proxy: iptables, nftables or ipvs}
KUBERNETES=${2:?a version of Kubernetes that kind has a node image for, as v1.34.0}
PLUGIN=${3:?the plugin to run}
CLUSTER=svcroute-e2e-$MODE
WORKER=$CLUSTER-worker
IMAGE=registry.k8s.io/e2e-test-images/agnhost:2.53
PORT=8080

say() { printf '== %s\n' "$*" >&2; }
cluster() { kubectl --context "kind-$CLUSTER" "$@"; }
on_worker() { docker exec -i "$WORKER" "$@"; }

make_cluster() {
  kind create cluster --name "$CLUSTER" --image "kindest/node:$KUBERNETES" --wait 180s --config - <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  kubeProxyMode: $MODE
nodes:
  - role: control-plane
  - role: worker
  - role: worker
YAML
  cluster create deployment kuard --image="$IMAGE" --replicas=3 -- /agnhost netexec "--http-port=$PORT"
  cluster expose deployment kuard --port="$PORT" --type=NodePort
  cluster rollout status deployment kuard --timeout=180s
}

# expect STATUS [TEXT]: an audit of everything ends with STATUS, and its report names TEXT.
expect() {
  local wanted=$1 text=${2-} status=0 report
  report=$("$PLUGIN" -A --context "kind-$CLUSTER" --via exec --settle 20s -o wide) || status=$?
  if [ "$status" != "$wanted" ]; then
    printf '%s\n' "$report" >&2
    say "status $status where $wanted was expected"
    return 1
  fi
  case $report in
    *"$text"*) say "status $status, as it should be" ;;
    *) printf '%s\n' "$report" >&2; say "the report does not name $text"; return 1 ;;
  esac
}

address() { cluster get service kuard -o 'jsonpath={.spec.clusterIP}'; }

# The first endpoint's rule of kuard is lost on one node.
lose_backend() {
  local chain rule
  chain=$(on_worker iptables-save -t nat | sed -n "s|^-A KUBE-SERVICES -d $(address)/32 .* -j \(KUBE-SVC-[A-Z0-9]*\)\$|\1|p")
  rule=$(on_worker iptables-save -t nat | sed -n "s|^-A \($chain .* -j KUBE-SEP-.*\)\$|\1|p" | head -n 1)
  [ -n "$rule" ] || { say "found no rule of kuard to take away"; return 1; }
  printf '%s\n' '*nat' "-D $rule" COMMIT | on_worker iptables-restore --noflush
}

# kuard's cluster IP is lost from the map of Services on one node.
lose_frontend() { on_worker nft delete element ip kube-proxy service-ips "{ $(address) . tcp . $PORT }"; }

restart_proxy() {
  cluster -n kube-system delete pod -l k8s-app=kube-proxy --field-selector "spec.nodeName=$WORKER" --wait
  cluster -n kube-system rollout status daemonset kube-proxy --timeout=120s
}

trap '[ -n "${KEEP-}" ] || kind delete cluster --name "$CLUSTER" >&2' EXIT
say "a cluster in $MODE mode, Kubernetes $KUBERNETES"
make_cluster >&2

case $MODE in
  iptables) hurt=lose_backend code=SR201 ;;
  nftables) hurt=lose_frontend code=SR101 ;;
  *)
    say "not verified in this mode, and never a pass"
    expect 3 SR904
    exit
    ;;
esac
say "healthy"
expect 0
say "hurt on $WORKER: $hurt"
"$hurt"
expect 1 "$code"
say "mended by a restart of kube-proxy there"
restart_proxy >&2
expect 0
