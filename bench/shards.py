"""An audit in parts at scale: what each shard of a big cluster costs, and what merging them costs.

    .venv/bin/python bench/shards.py --snapshot CLUSTER [--nodes 2000] [--shards 20] [--judge 1]

CLUSTER is a snapshot of a large cluster (`bench/run.py` has one, or makes one). Its first node stands for all: so many nodes
are made of it. In each shard `--judge` nodes are judged in earnest, and the result of the last stands for the others, as an
object of its own, so that memory and the part's size are those of a real shard. What is measured and what is calculated from
it stands in the table. Without a snapshot it says so and does nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kubectl_svcroute.audit.cluster import Audit  # noqa: E402
from kubectl_svcroute.collect.archive import load_snapshot  # noqa: E402
from kubectl_svcroute.model.node_result import NodeResult  # noqa: E402
from kubectl_svcroute.model.selection import Selection  # noqa: E402
from kubectl_svcroute.model.shard import ShardOf  # noqa: E402
from kubectl_svcroute.model.snapshot import ApiObjects, NodeDump  # noqa: E402
from kubectl_svcroute.render import render  # noqa: E402
from kubectl_svcroute.shards.merge import merge  # noqa: E402
from kubectl_svcroute.shards.read import read_parts  # noqa: E402
from kubectl_svcroute.shards.run import PartOf  # noqa: E402


def many_nodes(api: ApiObjects, count: int) -> ApiObjects:
    """The same cluster with so many nodes, each with addresses of its own."""
    (pattern, *_) = api.items("nodes")
    items = []
    for n in range(count):
        node = copy.deepcopy(pattern)
        node["metadata"] |= {"name": f"node-{n:05}", "uid": f"uid-{n}"}
        node["spec"] = {**node.get("spec", {}), "podCIDR": f"10.{244 + n // 65536}.{n // 256 % 256}.0/28", "podCIDRs": []}
        node["status"]["addresses"] = [{"type": "InternalIP", "address": f"172.{16 + n // 65536}.{n // 256 % 256}.{n % 256}"}]
        items.append(node)
    return replace(api, objects={**api.objects, "nodes": {**api.objects["nodes"], "items": items}})


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def shard(snapshot: str, of: ShardOf, count: int, judge: int, path: Path) -> dict[str, Any]:
    """One shard: its figures; its part goes to `path`."""
    begun = time.process_time()
    found = load_snapshot(snapshot)
    api = many_nodes(found.api, count)
    outcome = next(iter(found.outcomes()))
    assert isinstance(outcome, NodeDump)
    audit = Audit(api, Selection())
    names = tuple(str(item["metadata"]["name"]) for item in api.items("nodes"))
    mine = [name for name in names if of.owns(name)]
    ready = time.process_time()
    results: list[NodeResult] = [audit.node(replace(outcome, node=name)) for name in mine[:judge]]
    judged = time.process_time()
    for name in mine[judge:]:
        last = results[-1]
        results.append(replace(last, row=replace(last.row, node=name), frontends={k: (*v,) for k, v in last.frontends.items()}))
    part = PartOf(of=of, asked="{}", listed=names, api=api, source="snapshot", everybody=True, origin="bench")
    packing = time.process_time()
    path.write_text(render(part.report(audit, results), "shard"))
    return {
        "nodes": len(mine), "api": ready - begun, "node": (judged - ready) / max(1, min(judge, len(mine))),
        "pack": time.process_time() - packing, "memory": peak(), "bytes": path.stat().st_size,
        "findings": sum(len(result.findings) for result in results),
    }  # fmt: skip


def merged(folder: Path) -> dict[str, Any]:
    """All parts in one report, shown as a table."""
    begun = time.process_time()
    parts = [part for path in sorted(folder.glob("part*.json")) for part in read_parts(str(path))]
    report = merge(parts).report
    done = time.process_time()
    text = render(report, "table")
    return {
        "nodes": len(report.nodes), "verified": report.nodes_verified, "merge": done - begun,
        "table": time.process_time() - done, "memory": peak(), "lines": text.count("\n"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", default=os.environ.get("SVCROUTE_BENCH_SNAPSHOT", ""))
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--judge", type=int, default=1)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.snapshot:
        print("no large snapshot named (--snapshot, SVCROUTE_BENCH_SNAPSHOT): nothing measured")
        return
    if given.step:
        number, folder = int(given.step[0]), Path(given.step[1])
        of = ShardOf(index=number, count=given.shards)
        step = shard(given.snapshot, of, given.nodes, given.judge, folder / f"part{number}.json") if number else merged(folder)
        print(json.dumps(step))
        return
    with tempfile.TemporaryDirectory(prefix="svcroute-bench-") as folder:
        base = [sys.executable, __file__, "--snapshot", given.snapshot, "--nodes", str(given.nodes)]
        base += ["--shards", str(given.shards), "--judge", str(given.judge)]
        print(f"{given.nodes} nodes in {given.shards} shards; CPU seconds of one core, MiB\n")
        print("shard  nodes  API and parsing  a node (measured)  all its nodes (calculated)  packing  peak memory  part")
        for number in range(1, given.shards + 1):
            done = subprocess.run([*base, "--step", str(number), folder], check=True, capture_output=True, text=True)
            s = json.loads(done.stdout)
            print(f"{number:5}  {s['nodes']:5}  {s['api']:15.1f}  {s['node']:17.2f}  {s['node'] * s['nodes']:26.0f}"
                  f"  {s['pack']:7.1f}  {s['memory']:11.0f}  {s['bytes'] / 2**20:.2f}", flush=True)  # fmt: skip
        done = subprocess.run([*base, "--step", "0", folder], check=True, capture_output=True, text=True)
        m = json.loads(done.stdout)
        print(f"\nmerge of {m['nodes']} nodes ({m['verified']} verified): {m['merge']:.1f} s, the table {m['table']:.1f} s more,"
              f" peak memory {m['memory']:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
