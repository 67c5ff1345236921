"""What campaigns find beside what is known to be true of each target, in one table.

    python benchmarks/accuracy.py [--seed 0] [--from DIRECTORY] [TARGET ...]

Each target's whole campaign is run (without names: Owl's and LAD's, in simulation), or, with `--from`, its result is
read from `DIRECTORY/TARGET/campaign.json`. Recall is the share of the parameters known to be unsafe that were found,
precision the share of the reported ones that are known to be unsafe. The exit code is 1 unless both are 1, the
directions and requirements that the source tells are right, and nothing was called invalid falsely or left undecided.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zebra.campaign.result import CampaignResult
from zebra.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Truth:
    """What `source` says of a target, by names without the target's: the unsafe parameters, each with its direction
    ("*" where that depends on who has which role), what they require, those without another valid value (None where
    only the server knows), and those that are unsafe only while nodes change."""

    source: str
    unsafe: dict[str, str]
    requires: dict[str, list[str]] = field(default_factory=dict)
    invalid: tuple[str, ...] | None = None
    rolling: tuple[str, ...] = ()


PRIMARY = "primary>standby"
TRUTHS = {
    "owl": Truth(
        "targets/owl.md section 3",
        {
            "chunk.size": "both", "checksum.algorithm": "both", "transfer.encryption": "both",
            "transfer.frame_max": "*", "transfer.idle_timeout": "*", "delegation.loop_guard": "both",
        },
        {"chunk.size": ["owl.chunk.id_scheme=index"]},
        ("retry.attempts", "external.limit"),
    ),
    "lad": Truth(
        "targets/lad.md section 3, other.md section 1",
        {
            "shard.depth": "both", "update.seq_mode": "both", "value.max_bytes": "*", "lease.ttl": "*",
            "digest.over": "both", "artefact.digest": "both", "schema.rev": "*", "selector.seed": "both",
            "fallback.mode": "both", "apply.mode": "both",
        },
        {"digest.over": ["lad.content.codec=zlib"]},
        (),
    ),
    "postgres": Truth(
        "research/real_systems.md",
        {
            "max_connections": PRIMARY, "max_worker_processes": PRIMARY, "max_wal_senders": PRIMARY,
            "max_prepared_transactions": PRIMARY, "max_locks_per_transaction": PRIMARY,
        },
    ),
    "dask": Truth(
        "targets/dask/README.md",
        {
            "distributed.scheduler.locks.lease-timeout": "scheduler+worker>client",
            "distributed.comm.default-scheme": "both", "distributed.comm.tls.ciphers": "both",
        },
        {"distributed.comm.tls.ciphers": ["dask.distributed.comm.tls.max-version=1.2"]},
    ),
    "valkey": Truth(
        "targets/valkey/README.md",
        {"databases": "primary>replica", "rename-command": "both", "password": "both", "timeouts": "replica>primary"},
        rolling=("appendonly", "dbfilename"),
    ),
    "nats": Truth(
        "targets/nats/README.md",
        dict.fromkeys((
            "cluster.name", "cluster.authorization.user", "cluster.authorization.password", "route_tls",
            "cluster.accounts", "cluster.pool_size", "server_tags", "jetstream.max_memory_store",
            "jetstream.max_file_store", "jetstream.limits.max_ack_pending", "jetstream.limits.duplicate_window",
            "jetstream.limits.default_max_consumers", "jetstream.limits.max_ha_assets",
            "jetstream.limits.max_request_batch", "jetstream.limits.batch.max_msgs",
            "jetstream.limits.batch.max_inflight_per_stream", "jetstream.limits.batch.max_inflight_total",
            "max_payload", "max_control_line", "max_subscription_tokens",
        ), "*"),
    ),
}  # fmt: skip


def campaign(target: str, seed: int, directory: Path) -> None:
    """Run a target's whole campaign and leave its report below the directory."""
    command = [sys.executable, "-m", "zebra.cli", "campaign", target, "--quiet", "--seed", str(seed)]
    subprocess.run([*command, "--report", str(directory / target)], check=False, capture_output=True, cwd=directory)


def score(target: str, result: CampaignResult) -> dict[str, Any]:
    """One row: how a result compares with the truth, and under `wrong` in one line each what does not."""
    truth, decided = TRUTHS[target], {p.name.removeprefix(f"{target}."): p for p in result.parameters}
    unsafe = truth.unsafe | dict.fromkeys(truth.rolling if result.rolling else (), "")
    found = {name for name, p in decided.items() if p.verdict == "unsafe"}
    right = found & unsafe.keys()
    wrong = [f"{name} was missed: {decided[name].verdict}" for name in sorted(unsafe.keys() - found)]
    wrong += [f"{name} is reported and not known to be unsafe" for name in sorted(found - unsafe.keys())]
    wrong += [f"{name} is undecided" for name, p in decided.items() if p.verdict == "undecided"]
    for name in sorted(right):
        if unsafe[name] not in ("*", decided[name].direction):
            wrong.append(f"{name}: direction {decided[name].direction}, by the source {unsafe[name]}")
        if missing := set(truth.requires.get(name, ())) - set(decided[name].requires):
            wrong.append(f"{name}: requires {', '.join(sorted(missing))} by the source")
    invalid = {name for name, p in decided.items() if p.verdict == "invalid"}
    if truth.invalid is not None and invalid != set(truth.invalid):
        wrong.append(f"invalid are {', '.join(sorted(invalid)) or 'none'}, not {', '.join(truth.invalid) or 'none'}")
    return {
        "target": f"{target} on {result.substrate}", "decided": sum(p.verdict != "untested" for p in result.parameters),
        "unsafe by the source": f"{len(unsafe)} ({truth.source})", "found": len(right),
        "recall": len(right) / len(unsafe), "precision": len(right) / max(1, len(found)),
        "invalid": len(invalid), "runs": result.trials.total,
        "ZebraConf's": result.baselines.zebraconf, "one by one": result.baselines.one_by_one, "wrong": wrong,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, but for what is wrong."""
    shown = [{name: value for name, value in row.items() if name != "wrong"} for row in rows]
    return tabulate(shown, headers="keys", tablefmt="github", floatfmt=".2f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TRUTHS)}; default owl lad")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="reports", type=Path, help="where results are, in place of running campaigns")
    options = parser.parse_args()
    targets = options.targets or ["owl", "lad"]
    if unknown := [target for target in targets if target not in TRUTHS]:
        parser.error(f"nothing is known of {', '.join(unknown)}, but of {', '.join(TRUTHS)}")
    with tempfile.TemporaryDirectory(prefix="zebra-accuracy-") as made:
        directory = options.reports or Path(made)
        rows = []
        for target in targets:
            if not options.reports:
                campaign(target, options.seed, directory)
            try:
                rows.append(score(target, CampaignResult.load(directory / target / "campaign.json")))
            except ConfigError as error:
                parser.error(str(error))
    print(table(rows))
    if wrong := [f"{target}: {line}" for target, row in zip(targets, rows, strict=True) for line in row["wrong"]]:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
