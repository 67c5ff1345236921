"""Invariants without a class: the helpers of zebra and the general forms of zebra.plugins."""

from zebra import RunSpec, at_most_one, leads_to, never, run
from zebra.plugins import availability, no_cycles, sla
from zebra.testing import echo, echo_everywhere

INVARIANTS = (
    never("my.no_errors", "error"),
    at_most_one("my.one_leader", "leader.elected", per=lambda event: event["term"]),
    leads_to("my.restarted", "node.start", "node.ready", within=10.0, key=lambda event: event.node),
    no_cycles("my.no_cycles", opened="edge.open", closed="edge.close", child="child", parent="parent", per="chunk"),
    availability("my.majority", share=0.5, role="server", for_s=3.0),
    sla("my.fast", of="say", within_s=0.1, share=0.99, at_least=5),
)

if __name__ == "__main__":
    outcome = run(echo_everywhere, RunSpec(target="echo"), target=echo, invariants=INVARIANTS)
    print(outcome.result, "-", outcome.message)
    print("exercised:", ", ".join(outcome.exercised))
    assert outcome.result == "inconclusive", "asked for by name, three of these never saw an event"
    assert "my.majority" in outcome.exercised
