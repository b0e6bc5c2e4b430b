"""kube-proxy's configuration, from each place that shows it: the ConfigMap's file, `/configz`, a command line.

The file is `KubeProxyConfiguration` (v1alpha1, lower camel case); `/configz` up to 1.35 prints the internal struct in
upper camel case with some fields elsewhere, 1.36 prints v1alpha1 (kube-proxy-rules.md, section 7). So keys are read
without regard to case, and each setting is looked for in the places where some version has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ParseError
from ..model.lazy_regex import pattern

Settings = dict[str, Any]
"""What a source says, by the field names of `model.cluster.ProxyConfig`; only what it does say."""


def version_of(text: str) -> tuple[int, int] | None:
    """(1, 36) of `v1.36.2`, `1.36.2-gke.100`, `registry.k8s.io/kube-proxy:v1.36.2@sha256:…`; None when none is there."""
    found = re.search(r"(?:^|[:v])v?(\d{1,4})\.(\d{1,4})(?:\.|$|[^\d])", text, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None


def settings_from_file(text: str, *, source: str) -> Settings:
    """Read a KubeProxyConfiguration in YAML or JSON. Raises ParseError when it is neither."""
    try:
        if text.lstrip().startswith("{"):
            document = json.loads(text)
        else:
            import yaml  # noqa: PLC0415 - 27 ms that most runs do not need

            document = yaml.safe_load(text)
    except Exception as error:
        raise ParseError(f"{source}: kube-proxy's configuration is neither YAML nor JSON ({error})") from error
    if not isinstance(document, dict):
        raise ParseError(f"{source}: kube-proxy's configuration is not a mapping")
    return _settings(document, source)


def settings_from_configz(text: str, *, source: str) -> Settings:
    """Read the answer of `/configz`. Raises ParseError when it is not that."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"{source}: not JSON ({error})") from error
    inner = document.get("kubeproxy.config.k8s.io") if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        raise ParseError(f"{source}: not the answer of kube-proxy's /configz")
    return _settings(inner, source)


def _lower(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).lower(): _lower(item) for key, item in value.items()}
    return value


def _settings(document: Mapping[str, Any], source: str) -> Settings:
    low = _lower(dict(document))
    found: Settings = {}

    def section(name: str) -> Mapping[str, Any]:
        value = low.get(name)
        return value if isinstance(value, dict) else {}

    iptables, nftables, linux, local = (
        section("iptables"),
        section("nftables"),
        section("linux"),
        section("detectlocal"),
    )
    mode = str(low.get("mode") or "iptables").lower()
    found["mode"] = mode
    cidrs = low.get("clustercidr") or ""
    listed = local.get("clustercidrs")
    if isinstance(listed, list) and listed:
        found["cluster_cidrs"] = tuple(str(item).strip() for item in listed)
    else:
        found["cluster_cidrs"] = tuple(part.strip() for part in str(cidrs).split(",") if part.strip())
    found["detect_local"] = str(low.get("detectlocalmode") or "ClusterCIDR")
    found["bridge_interface"] = str(local.get("bridgeinterface") or "")
    found["interface_prefix"] = str(local.get("interfacenameprefix") or "")
    backend = nftables if mode == "nftables" else iptables
    found["masquerade_all"] = bool(backend.get("masqueradeall") or linux.get("masqueradeall") or False)
    bit = backend.get("masqueradebit")
    if bit is not None:
        if not isinstance(bit, int) or isinstance(bit, bool) or not 0 <= bit <= 31:
            raise ParseError(f"{source}: masqueradeBit {bit} is no bit of a mark")
        found["masquerade_bit"] = bit
    if (localhost := iptables.get("localhostnodeports")) is not None:
        found["localhost_node_ports"] = bool(localhost)
    addresses = low.get("nodeportaddresses")
    if isinstance(addresses, list):
        found["node_port_addresses"] = tuple(str(item) for item in addresses)
    gates = document.get("featureGates") or document.get("FeatureGates")
    if isinstance(gates, dict):
        found["feature_gates"] = {str(key): bool(value) for key, value in gates.items()}
    if period := duration(backend.get("syncperiod") or low.get("syncperiod")):
        found["sync_period"] = period
    return found


_PART = pattern(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|us|µs|ns|s)")
_DURATION = pattern(rf"\+?(?:{_PART.pattern})+")
_LONGEST = 1e10
"""Seconds: longer than a Go duration can be, which ends at 292 years."""


def duration(value: Any) -> float | None:
    """Seconds of a Go duration (`30s`, `1m30s`), of its nanoseconds, or of `{"Duration": ...}`; None when there is none."""
    if isinstance(value, dict):
        value = value.get("duration")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value / 1e9 or None if 0 <= value < _LONGEST * 1e9 else None
    if not isinstance(value, str):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    if not _DURATION.fullmatch(value):
        return None
    parts = _PART.findall(value)
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    return seconds or None if seconds < _LONGEST else None


_FLAGS = {
    "cluster-cidr": "cluster_cidrs", "proxy-mode": "mode", "masquerade-all": "masquerade_all",
    "iptables-masquerade-bit": "masquerade_bit", "nodeport-addresses": "node_port_addresses",
    "detect-local-mode": "detect_local", "pod-bridge-interface": "bridge_interface",
    "pod-interface-name-prefix": "interface_prefix", "iptables-localhost-nodeports": "localhost_node_ports",
    "feature-gates": "feature_gates", "iptables-sync-period": "sync_period",
}  # fmt: skip


def settings_from_flags(words: Sequence[str]) -> Settings:
    """Read a kube-proxy command line. Empty when it says `--config`: flags are then ignored for these fields."""
    flags: dict[str, str] = {}
    for at, word in enumerate(words):
        # A shell line (`sh -c "kube-proxy --a=b ... 1>>log"`) is one word of several.
        for part in word.split():
            if part.startswith("--"):
                name, equals, value = part[2:].partition("=")
                following = words[at + 1] if at + 1 < len(words) and " " not in word else ""
                flags[name] = value if equals else ("true" if following.startswith("-") or not following else following)
    if "config" in flags:
        return {}
    found: Settings = {}
    for flag, field in _FLAGS.items():
        if flag not in flags:
            continue
        value = flags[flag].strip("\"'")
        if field in ("cluster_cidrs", "node_port_addresses"):
            found[field] = tuple(part for part in value.split(",") if part)
        elif field in ("masquerade_all", "localhost_node_ports"):
            found[field] = value.lower() != "false"
        elif field == "masquerade_bit" and re.fullmatch(r"[0-9]{1,2}", value) and int(value) <= 31:
            found[field] = int(value)
        elif field == "feature_gates":
            pairs = (part.partition("=") for part in value.split(",") if part)
            found[field] = {name: setting.lower() == "true" for name, _, setting in pairs}
        elif field == "sync_period":
            if period := duration(value):
                found[field] = period
        elif field != "masquerade_bit":
            found[field] = value
    return found
