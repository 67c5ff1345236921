"""Using faults: for a part of a test, or as a schedule that is data."""

import asyncio

from zebra import Cluster, RunSpec, Schedule, run
from zebra.rpc import RpcError
from zebra.testing import echo


async def answers_after_the_partition(cluster: Cluster) -> None:
    async with cluster.fault("network.partition", "one(server)") as partition:
        cut_off = partition.on.nodes[0]
        try:
            await cluster.client.say(cut_off)
            raise AssertionError("an answer from behind a partition")
        except RpcError:
            pass
    assert (await cluster.client.say(cut_off)).text == "hello"


async def waits(cluster: Cluster) -> None:
    await asyncio.sleep(5.0)


SCHEDULE = [
    {"fault": "host.crash", "on": "one(server)", "at": "1s", "for": "2s"},
    {"fault": "network.partition", "on": [["server-1"], ["server-2", "server-3"]], "at": "2s", "for": "500ms"},
]

if __name__ == "__main__":
    print(run(answers_after_the_partition, RunSpec(target="echo"), target=echo).result)
    outcome = run(waits, RunSpec(target="echo", schedule=Schedule.parse(SCHEDULE)), target=echo)
    print(outcome.result, "-", outcome.message)
    assert outcome.result == "inconclusive", "no message crossed the partition, so it proves nothing"
