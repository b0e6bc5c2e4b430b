"""What the user asked for, as values: the command line's words without click."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..model.fast_dataclass import dataclass
from ..model.shard import ShardOf
from ..render import FORMATS

DEMO = Path(__file__).parent.parent / "data" / "demo.tar.gz"
"""The cluster that comes with the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One report to write."""

    format: str
    path: str | None
    """None: stdout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that one run depends on."""

    names: tuple[str, ...] = ()
    namespace: str | None = None
    all_namespaces: bool = False
    selector: str | None = None
    nodes: tuple[str, ...] = ()
    node_selector: str | None = None
    """Labels of the nodes asked for; None for all."""
    snapshot: str | None = None
    kube: Mapping[str, Any]
    """The arguments of `collect.kube.KubeOptions`."""
    via: str = "auto"
    ssh: Mapping[str, Any]
    """The arguments of `collect.ssh.SshOptions`."""
    ask_sudo_password: bool = False
    conntrack: bool = False
    """Whether the connections that are there are read, too."""
    parallel: int = 32
    timeout: float = 120.0
    settle: float = 10.0
    outputs: tuple[Output, ...] = (Output(format="table", path=None),)
    no_headers: bool = False
    color: str = "auto"
    fail_on: str = "warning"
    allow_partial: bool = False
    strict: bool = False
    verbose: int = 0
    shard: ShardOf | None = None
    """Only these nodes; None for all."""
    cached: bool = False
    jitter: float = 0.0
    note: str = ""
    """What to say before anything else; the demo's introduction."""

    def asked(self, namespace: str) -> str:
        """What was asked for, as text that is the same for all parts of one audit. `namespace`: where names are looked up."""
        asked = {
            "names": sorted(self.names),
            "namespace": None if self.all_namespaces else namespace,
            "selector": self.selector,
            "nodes": sorted(self.nodes),
            "nodeSelector": self.node_selector,
            "conntrack": self.conntrack,
        }
        return json.dumps({key: value for key, value in asked.items() if value}, ensure_ascii=True)


def settings(given: Mapping[str, Any]) -> Settings:
    """Settings of click's parameters. Raises UsageError for options that exclude each other."""
    names = tuple(given.get("names") or ())
    if given.get("all_namespaces") and names:
        raise UsageError("a Service by name cannot be asked for in all namespaces: leave out -A, or the name")
    if given.get("all_namespaces") and given.get("namespace"):
        raise UsageError("-A and -n exclude each other")
    if given.get("selector") and names:
        raise UsageError("a Service is asked for by name or by selector, not both")
    outputs = []
    for word in given.get("outputs") or ("table",):
        name, _, path = word.partition("=")
        if name not in FORMATS:
            raise UsageError(f"-o {name}: no such format; there are {', '.join(FORMATS)}")
        outputs.append(Output(format=name, path=path or None))
    if file := given.get("output_file"):
        if len(outputs) > 1:
            raise UsageError("--output-file goes with one -o; with several, write each as -o FORMAT=FILE")
        outputs = [Output(format=outputs[0].format, path=file)]
    if sum(output.path is None for output in outputs) > 1:
        raise UsageError("several -o cannot all go to stdout: write all but one as -o FORMAT=FILE")
    shard = shard_of(given["shard"]) if given.get("shard") else None
    if shard is None and any(output.format == "shard" for output in outputs):
        raise UsageError("-o shard is what --shard I/N found, for merge: name the shard")
    kube = {
        "kubeconfig": given.get("kubeconfig"), "context": given.get("kube_context"), "cluster": given.get("cluster"),
        "user": given.get("user"), "server": given.get("server"), "token": given.get("token"),
        "as_user": given.get("as_user"), "as_groups": tuple(given.get("as_groups") or ()), "as_uid": given.get("as_uid"),
        "certificate_authority": given.get("certificate_authority"),
        "insecure_skip_tls_verify": bool(given.get("insecure_skip_tls_verify")),
        "tls_server_name": given.get("tls_server_name"), "namespace": given.get("namespace"),
        "request_timeout": given.get("request_timeout"),
    }  # fmt: skip
    timeout = given.get("timeout") or 0.0
    ssh = {
        "user": given.get("ssh_user") or "", "port": given.get("ssh_port") or 0,
        "identities": tuple(given.get("identities") or ()), "jump": given.get("jump") or "",
        "addresses": tuple(given.get("ssh_address") or ()), "config_file": given.get("ssh_config") or "",
        "accept_new_host_keys": bool(given.get("ssh_accept_new_host_keys")),
        "command_timeout": timeout or 86400.0,
    }  # fmt: skip
    return Settings(
        names=names,
        namespace=given.get("namespace"),
        all_namespaces=bool(given.get("all_namespaces")),
        selector=given.get("selector"),
        nodes=tuple(given.get("nodes") or ()),
        node_selector=given.get("node_selector"),
        snapshot=snapshot_path(given.get("snapshot")),
        kube=kube,
        via=given.get("via") or "auto",
        ssh=ssh,
        conntrack=bool(given.get("conntrack")),
        ask_sudo_password=bool(given.get("ask_sudo_pass")),
        parallel=given.get("parallel") or 32,
        timeout=timeout,
        settle=given.get("settle") if given.get("settle") is not None else 10.0,  # type: ignore[arg-type]
        outputs=tuple(outputs),
        no_headers=bool(given.get("no_headers")),
        color=given.get("color") or "auto",
        fail_on=given.get("fail_on") or "warning",
        allow_partial=bool(given.get("allow_partial")),
        strict=bool(given.get("strict")),
        verbose=given.get("verbose") or 0,
        shard=shard,
        cached=bool(given.get("cached")),
        jitter=given.get("jitter") or 0.0,
    )


def shard_of(text: str) -> ShardOf:
    """`2/7`, `job/7` (an Indexed Job counts from 0), `node/NAME`. Raises UsageError for anything else."""
    first, _, second = text.partition("/")
    if first == "node" and second:
        return ShardOf(node=second)
    if first == "job":
        first = os.environ.get("JOB_COMPLETION_INDEX", "")
        if not first.isdecimal():
            raise UsageError(f"--shard {text}: JOB_COMPLETION_INDEX is not set: this is no pod of an Indexed Job")
        first = str(int(first) + 1)
    if not (first.isdecimal() and second.isdecimal()) or not 1 <= int(first) <= int(second):
        raise UsageError(f"--shard {text}: write I/N with I from 1 to N, job/N or node/NAME")
    return ShardOf(index=int(first), count=int(second))


def snapshot_path(path: str | None) -> str | None:
    """`demo` is the cluster that comes with the package, unless there is something of that name here."""
    return str(DEMO) if path == "demo" and not Path(path).exists() else path
