"""One run of `probe`: read, say what will be done, do it, look where it went, look again at what differs, report.

Nodes are read and judged as `check` does it; what is dialled follows from what each node should serve. A node on which anything
is found is read and probed a second time after `--settle`, and only what is found twice is a finding. So no node ever gets more
than twice `--count` connections to a frontend from one run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from ..audit.ask_port import AskedPort
from ..audit.cluster import Audit
from ..checks.observation import Observation
from ..checks.rollup import roll_up
from ..errors import CollectError, ExitCode, ParseError, UsageError
from ..model.flow import ProbeRow
from ..model.node_result import NodeResult
from ..model.report import Report, Severity, Unverified
from ..model.snapshot import ApiObjects, NodeDump, NodeHandle, NodeOutcome, Unreachable
from ..observe.config_votes import Inference
from ..run import check
from ..run.settings import Settings, settings
from ..run.settling import identity
from .judge import Judged, comparisons, judge, tail_text
from .promise import Dialler, NodePlan, plan_node
from .reading import Dialled, parse_probe
from .script import WATCH_LEAD, Bounds, Target, dial_script, look_script, watch_script

if TYPE_CHECKING:
    from ..collect.fanout import NodeReader, NodeTarget
    from ..collect.kube import KubeApi
    from ..collect.pod_exec import ExecReader, ProxyPod

MOST_CONNECTIONS = 5000
"""From one place in one look; who wants more asks for less at a time."""

_MOST_BYTES = 32 << 20
"""How much one place may say: a busy Service's new connections pass by conntrack's listener while ours are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of `probe` beyond what every command is asked."""

    bounds: Bounds
    payload: bytes = b""
    pod: str = ""
    """`pod/NAME`; empty: the nodes themselves."""
    container: str = ""
    dry_run: bool = False


def run_probe(given: Mapping[str, Any]) -> int:
    """Probe what is asked for and write the report; returns the exit status."""
    rest = dict(given)
    wish = Wish(
        bounds=Bounds(
            count=rest.pop("count"), rate=rest.pop("rate"), patience=rest.pop("wait") or 2.0, capture=rest.pop("capture")
        ),
        payload=_payload(rest.pop("payload"), rest.pop("payload_hex")),
        pod=rest.pop("origin") or "",
        container=rest.pop("container") or "",
        dry_run=rest.pop("dry_run"),
    )
    found = settings(rest)
    if not found.names:
        raise UsageError("probe dials one Service, or several, by name: kubectl svcroute probe NAME")
    if not 0.1 <= wish.bounds.patience <= 60:
        raise UsageError("--wait is from 100ms to 60s")
    with check._cluster(found) as (api, objects, reader):
        report = _Run(found, wish, api, objects, reader).report()
    if report is None:
        return ExitCode.OK
    check.write(report, found)
    return report.exit_code(fail_on=found.fail_on, allow_partial=found.allow_partial)


def _payload(text: str | None, hexed: str | None) -> bytes:
    if text and hexed:
        raise UsageError("--payload and --payload-hex exclude each other")
    if hexed:
        try:
            return bytes.fromhex(hexed)
        except ValueError:
            raise UsageError(f"--payload-hex {hexed}: not a row of hexadecimal digits") from None
    payload = (text or "").encode()
    if len(payload) > 1024:
        raise UsageError("--payload is for one small datagram: at most 1024 bytes")
    return payload


@dataclass
class _Look:
    """One look: what the audit of each node says, what was dialled, and what came of it."""

    audit: Audit
    results: dict[str, NodeResult] = field(default_factory=dict)
    plans: dict[str, NodePlan] = field(default_factory=dict)
    judged: dict[str, list[Judged]] = field(default_factory=dict)

    def observations(self, node: str) -> list[Observation]:
        """What the connections of a node showed."""
        return [o for part in self.judged.get(node, ()) for o in part.observations]


class _Run:
    def __init__(self, found: Settings, wish: Wish, api: KubeApi, objects: ApiObjects, reader: NodeReader) -> None:
        self.found = found
        self.wish = wish
        self.api = api
        self.objects = objects
        self.reader = reader
        self.selection = check.select(objects, found, api.current_namespace)
        self.dialler, self.place = self._who()
        targets = check._targets(objects, replace(found, nodes=(self.place,)) if self.place else found)
        self.targets: dict[str, NodeTarget] = {target.name: target for target in targets}
        self.comparisons = 1

    # ---- who dials --------------------------------------------------------------------------------------------------

    def _who(self) -> tuple[Dialler, str]:
        """Who dials, and the node of it (empty: all that are asked for)."""
        if not self.wish.pod:
            return Dialler(), ""
        item = self._pod()
        spec, status = item.get("spec") or {}, item.get("status") or {}
        if status.get("phase") != "Running":
            raise UsageError(f"--from {self.wish.pod}: the pod is not running ({status.get('phase')})")
        addresses = tuple(dict.fromkeys([status.get("podIP"), *(a.get("ip") for a in status.get("podIPs") or ())]))
        key = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        if spec.get("hostNetwork"):
            raise UsageError(f"--from {self.wish.pod}: the pod dials as its node does (hostNetwork): leave out --from")
        return Dialler(pod=key, addresses=tuple(a for a in addresses if a)), str(spec.get("nodeName") or "")

    def _pod(self) -> dict[str, Any]:
        kind, _, name = self.wish.pod.partition("/")
        if kind not in ("pod", "pods", "po") or not name:
            raise UsageError(f"--from {self.wish.pod}: write pod/NAME (without --from the nodes themselves dial)")
        namespace = self.found.namespace or self.api.current_namespace
        for item in self.objects.items("pods"):
            meta = item.get("metadata") or {}
            if meta.get("name") == name and meta.get("namespace") == namespace:
                return item
        raise UsageError(f"--from {self.wish.pod}: no such pod in namespace {namespace}")

    def _inside(self) -> tuple[ExecReader, ProxyPod]:
        from ..collect.pod_exec import ExecReader, ProxyPod  # noqa: PLC0415 - only where a pod dials

        item = self._pod()
        names = [str(c.get("name")) for c in (item.get("spec") or {}).get("containers") or ()]
        if self.wish.container and self.wish.container not in names:
            raise UsageError(f"-c {self.wish.container}: {self.wish.pod} has {', '.join(names)}")
        meta = item["metadata"]
        pod = ProxyPod(str(meta["namespace"]), str(meta["name"]), self.wish.container or (names or [""])[0])
        # Bounded by the script itself; the transport only has to wait longer than that.
        return ExecReader(self.api, (), command_timeout=self._patience(), max_bytes=_MOST_BYTES), pod

    # ---- the run ----------------------------------------------------------------------------------------------------

    def report(self) -> Report | None:
        """The report; None after a dry run."""
        look = self._read(list(self.targets), self.objects)
        plans = [plan for _, plan in sorted(look.plans.items())]
        self._within_bounds(plans)
        self.comparisons = comparisons(plans) or 1
        if self.wish.dry_run:
            click.echo(self._dry(plans), nl=False)
            return None
        self._announce(plans)
        self._probe(look)
        suspects = [n for n in look.results if look.observations(n) or look.results[n].findings]
        if suspects and self.found.settle > 0:
            self._again(look, suspects)
        return self._conclude(look)

    def _read(self, names: Sequence[str], objects: ApiObjects, inference: Inference | None = None) -> _Look:
        """Read and judge nodes, and plan what is dialled from each. `inference`: what all nodes told before."""
        from ..collect.fanout import handles, read_all  # noqa: PLC0415

        look = _Look(audit=Audit(objects, self.selection, thorough=True))
        nodes = handles(self.reader, [self.targets[name] for name in names])
        outcomes: Iterable[NodeOutcome] = read_all(
            nodes, parallel=self.found.parallel, node_timeout=check._patience(self.found)
        )
        if inference is not None:
            look.audit.take(inference)
        elif look.audit.needs_inference:
            outcomes = list(outcomes)
            look.audit.learn(outcomes)
        for outcome in outcomes:
            if not isinstance(outcome, NodeDump) or outcome.node not in look.audit.context.nodes:
                look.results[outcome.node] = look.audit.node(outcome)
                continue
            ports: list[AskedPort] = []
            result = look.results[outcome.node] = look.audit.audited(outcome, listeners=[ports.append]).result
            look.plans[outcome.node] = plan_node(outcome, result, ports, self.dialler, payload=self.wish.payload)
        return look

    def _within_bounds(self, plans: Sequence[NodePlan]) -> None:
        most = max((len(plan.targets) for plan in plans), default=0) * self.wish.bounds.count
        if most > MOST_CONNECTIONS:
            raise UsageError(f"that would be {most} connections from one place; the most is {MOST_CONNECTIONS}: lower --count")
        longest = self.wish.bounds.usual(max((len(plan.targets) for plan in plans), default=0))
        if self.found.timeout and longest > self.found.timeout:
            raise UsageError(
                f"that may take {longest:.0f} s in one place, longer than --timeout ({self.found.timeout:g} s):"
                f" give --timeout {longest:.0f}s, a higher --rate or a lower --count"
            )

    def _probe(self, look: _Look) -> None:
        """Dial, from all places at once, and judge what came of it."""
        from ..collect.fanout import read_all  # noqa: PLC0415

        plans = {name: plan for name, plan in look.plans.items() if plan.targets}

        def bound(plan: NodePlan) -> Callable[[], NodeOutcome]:
            return lambda: self._dial(plan)

        nodes = [NodeHandle(node=name, read=bound(plan)) for name, plan in sorted(plans.items())]
        for outcome in read_all(nodes, parallel=self.found.parallel, node_timeout=self._patience() + 60):
            plan = plans[outcome.node]
            if isinstance(outcome, Unreachable):
                reason = f"nothing was probed from here: {outcome.reason}"
                look.judged[plan.node] = [Judged(unverified=[Unverified(code="SR921", node=plan.node, reason=reason)])]
            else:
                look.judged[plan.node] = [self._judge(plan, target, outcome) for target in plan.targets]
        for name, plan in look.plans.items():
            for service, frontend, why in plan.skipped:
                reason = f"{frontend} was not probed: {why}"
                unverified = [Unverified(code="SR921", node=name, service=service, reason=reason)]
                look.judged.setdefault(name, []).append(Judged(unverified=unverified))

    def _patience(self) -> float:
        return max(self.found.timeout or 0.0, self.wish.bounds.seconds(40))

    def _judge(self, plan: NodePlan, target: Target, outcome: NodeDump) -> Judged:
        text = outcome.files.get(f"probe-{target.number}.txt")
        try:
            if text is None:
                raise ParseError("the probe printed nothing for it")
            dialled: Dialled = parse_probe(text, target.frontend)
        except ParseError as error:
            service = plan.port(target.frontend).plan.service.key
            reason = f"{target.frontend} was not probed: {error}"
            return Judged(unverified=[Unverified(code="SR921", node=plan.node, service=service, reason=reason)])
        return judge(plan, target, dialled, self.dialler, comparisons=self.comparisons)

    # ---- one place --------------------------------------------------------------------------------------------------

    def _dial(self, plan: NodePlan) -> NodeOutcome:
        """Run the script where the dialling is done; what it prints, as files."""
        from ..collect.node_script import new_nonce, parse_sections  # noqa: PLC0415

        nonce = new_nonce()
        script = self._script(nonce, plan)
        try:
            if self.wish.pod:
                return self._dial_inside(plan, nonce, script)
            data = self.reader.run(self.targets[plan.node], script, nonce, via=plan.via)
            return NodeDump(node=plan.node, files=parse_sections(data, nonce, max_bytes=_MOST_BYTES).files)
        except CollectError as error:
            return Unreachable(node=plan.node, reason=str(error))

    def _script(self, nonce: str, plan: NodePlan) -> str:
        """What is run where the dialling is done. A pod does not see what becomes of its packets: there is nothing to capture."""
        return dial_script(nonce, plan.targets, replace(self.wish.bounds, capture=self.wish.bounds.capture and not self.wish.pod))

    def _dial_inside(self, plan: NodePlan, nonce: str, script: str) -> NodeOutcome:
        """The pod dials; where it went is known on its node alone."""
        from ..collect.node_script import new_nonce, parse_sections  # noqa: PLC0415

        reader, pod = self._inside()
        watching = self._watch(plan) if self.wish.bounds.capture else None
        files = dict(parse_sections(reader.run_inside(pod, script), nonce, max_bytes=_MOST_BYTES).files)
        captured = watching() if watching is not None else ""
        looked = []
        for target in plan.targets:
            text = files.get(f"probe-{target.number}.txt")
            if text is not None:
                ports = {a.port for a in parse_probe(text, target.frontend).attempts if a.port}
                looked.append(replace(target, ports=tuple(sorted(ports))))
        nonce = new_nonce()
        data = self.reader.run(self.targets[plan.node], look_script(nonce, looked), nonce, via=plan.via)
        seen = parse_sections(data, nonce, max_bytes=_MOST_BYTES).files
        for name in list(files):
            if name in seen:
                # What a pod sees of connection tracking is its own network's: the node's is put in its place.
                files[name] = files[name].partition("# flows")[0] + captured + seen[name]
        return NodeDump(node=plan.node, files=files)

    def _watch(self, plan: NodePlan) -> Callable[[], str]:
        """Begin to capture on the pod's node; what is returned waits for its end and gives what was seen."""
        from ..collect.node_script import new_nonce, parse_sections  # noqa: PLC0415

        said: list[str] = []
        nonce = new_nonce()

        def work() -> None:
            with contextlib.suppress(CollectError):  # then nothing was seen, and nothing is claimed
                data = self.reader.run(
                    self.targets[plan.node], watch_script(nonce, plan.targets, self.wish.bounds), nonce, via=plan.via
                )
                said.append(parse_sections(data, nonce, max_bytes=_MOST_BYTES).files.get("capture.txt", ""))

        thread = threading.Thread(target=work, name="capture", daemon=True)
        thread.start()
        time.sleep(WATCH_LEAD)

        def end() -> str:
            thread.join(self._patience())
            return said[0] + "\n" if said else "# capture none\n"

        return end

    # ---- the second look --------------------------------------------------------------------------------------------

    def _again(self, look: _Look, suspects: Sequence[str]) -> None:
        """Read and probe again where anything was found; what is not found twice was a change on its way, or chance."""
        from ..collect.refresh import changed_services, refresh  # noqa: PLC0415

        click.echo(
            f"something was found on {len(suspects)} node{'s' if len(suspects) != 1 else ''};"
            f" looking and dialling a second time in {self.found.settle:g} s",
            err=True,
        )
        time.sleep(self.found.settle)
        objects = refresh(self.api, self.objects, self.selection.services)
        again = self._read([name for name in suspects if name in self.targets], objects, look.audit.inference)
        self._probe(again)
        after = refresh(self.api, objects, self.selection.services)
        moving = changed_services(self.objects, objects) | changed_services(objects, after)
        for name in suspects:
            first, second = look.results[name], again.results[name]
            twice = {_key(o) for o in look.observations(name)}
            said = {identity(f) for f in first.findings}
            kept = tuple(f for f in second.findings if identity(f) in said and f.service not in moving)
            look.results[name] = replace(second, findings=kept)
            parts = again.judged.get(name, [])
            seen_again = {_key(o) for o in again.observations(name)}
            for part in parts:
                part.observations = [o for o in part.observations if _key(o) in twice and o.service not in moving]
            parts += self._not_met_again(look, name, seen_again, parts, moving)
            gone = {f.service for f in second.findings if f.service} | {o.service for o in look.observations(name) if o.service}
            for service in sorted(gone & moving):
                reason = "its objects changed while it was probed; run again"
                parts.append(
                    Judged(unverified=[Unverified(code="SR908", node=name, service=service, reason=reason)])
                )
            look.judged[name] = parts
            if name in again.plans:
                look.plans[name] = again.plans[name]

    @staticmethod
    def _not_met_again(
        look: _Look, name: str, seen_again: set[tuple[str, str | None, str]], parts: Sequence[Judged], moving: set[str]
    ) -> list[Judged]:
        """Endpoints that failed in the first look, and that chance did not lead to in the second: neither found nor refuted."""
        rows = [part.row for part in parts if part.row is not None]
        found = []
        for observation in look.observations(name):
            if observation.code not in ("SR701", "SR702") or _key(observation) in seen_again or observation.service in moving:
                continue
            mine = [a for row in rows if row.service == observation.service for a in row.answers if a.backend == observation.key]
            if any(a.sent for a in mine) or not any(a.share for a in mine):
                continue  # it answered this time, or the rules no longer send to it
            reason = f"{observation.message}: seen once, and no connection of the second look met it (raise --count)"
            found.append(
                Judged(
                    unverified=[
                        Unverified(
                            code="SR921", node=name, service=observation.service, reason=reason, evidence=observation.evidence
                        )
                    ]
                )
            )
        return found

    # ---- what is said -----------------------------------------------------------------------------------------------

    def _announce(self, plans: Sequence[NodePlan]) -> None:
        """What will be done, before it is done."""
        bounds = self.wish.bounds
        total = sum(len(plan.targets) for plan in plans) * bounds.count
        if not total:
            click.echo("probe: there is nothing to dial", err=True)
            return
        places = sum(bool(plan.targets) for plan in plans)
        who = f"from {self.dialler.label}" if self.wish.pod else f"from {places} node{'s' if places != 1 else ''}"
        click.echo(
            f"probe: {total} connections {who}, {bounds.count} to each address, at most {bounds.rate} a second from each place,"
            f" each given up after {bounds.patience:g} s",
            err=True,
        )
        for text, nodes in self._folded(plans):
            click.echo(f"  to {text} from {nodes}", err=True)
        kinds = {target.frontend.protocol.value for plan in plans for target in plan.targets}
        if "TCP" in kinds:
            click.echo("  a TCP connection is opened and closed, and nothing is sent in it", err=True)
        if "UDP" in kinds:
            what = f"{len(self.wish.payload)} bytes of --payload" if self.wish.payload else "a DNS query"
            click.echo(f"  a UDP address gets one datagram each ({what})", err=True)
        if bounds.capture:
            click.echo("  tcpdump watches first packets meanwhile, ended by count and by time", err=True)

    def _folded(self, plans: Sequence[NodePlan]) -> list[tuple[str, str]]:
        """Addresses that several nodes dial, named once."""
        nodes: dict[str, list[str]] = {}
        for plan in plans:
            for target in plan.targets:
                nodes.setdefault(f"{target.frontend} ({target.frontend.kind})", []).append(plan.node)
        everywhere = sum(bool(plan.targets) for plan in plans)
        return [
            (text, names[0] if len(names) == 1 else (f"all {everywhere}" if len(names) == everywhere else f"{len(names)} nodes"))
            for text, names in nodes.items()
        ]

    def _dry(self, plans: Sequence[NodePlan]) -> str:
        """Every command that would be run, nothing run."""
        groups: dict[str, list[str]] = {}
        for plan in plans:
            if plan.targets:
                groups.setdefault(self._script("NONCE", plan), []).append(plan.node)
        parts = []
        for script, names in groups.items():
            way = f"in {self.dialler.label} (pods/exec), as `sh -s`" if self.wish.pod else "as root, fed to `sh -s`"
            parts.append(f"#### {way}, on {', '.join(names)}:\n{script.rstrip()}\n")
        if self.wish.pod:
            for plan in plans:
                if plan.targets and self.wish.bounds.capture:
                    script = watch_script("NONCE", plan.targets, self.wish.bounds)
                    parts.append(f"#### meanwhile on {plan.node}, as root:\n{script.rstrip()}\n")
                if plan.targets:
                    script = look_script("NONCE", plan.targets)
                    head = f"#### afterwards on {plan.node}, as root, with the local ports that were met"
                    parts.append(f"{head}:\n{script.rstrip()}\n")
        for plan in plans:
            parts += [f"#### not dialled from {plan.node}: {front}: {why}\n" for _, front, why in plan.skipped]
        return "\n".join(parts) or "#### there is nothing to dial\n"

    def _conclude(self, look: _Look) -> Report:
        rows: list[ProbeRow] = []
        results = []
        blind: set[str] = set()
        for name, result in look.results.items():
            parts = look.judged.get(name, [])
            findings = roll_up(name, look.observations(name), services_expected={}, heals=lambda _: "")
            unverified = tuple(u for part in parts for u in part.unverified)
            rows += [part.row for part in parts if part.row is not None]
            if unverified:
                blind.add(name)
            results.append(
                replace(
                    result,
                    findings=(*result.findings, *findings),
                    unverified=(*result.unverified, *unverified),
                    row=replace(
                        result.row,
                        errors=result.row.errors + sum(f.severity is Severity.ERROR for f in findings),
                        warnings=result.row.warnings + sum(f.severity is Severity.WARNING for f in findings),
                    ),
                )
            )
        report = look.audit.conclude(results, origin=f"context {self.api.context_name}")
        dialled = Counter(row.source for row in rows)
        notes = (*report.notes, tail_text(self.comparisons)) if dialled else report.notes
        # What could not be dialled takes nothing from what is known of the rules, but the node is not verified as a whole.
        nodes = tuple(replace(row, verified=row.verified and row.node not in blind) for row in report.nodes)
        probes = tuple(sorted(rows, key=lambda r: (r.service, r.frontend, r.node)))
        return replace(report, nodes=nodes, probes=probes, notes=notes)


def _key(observation: Observation) -> tuple[str, str | None, str]:
    return observation.code, observation.service, observation.key
