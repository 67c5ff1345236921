"""The events of a run as the page's script gets them: to draw one by one when zoomed in, and to list on a click."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from markupsafe import Markup

from zebra.reports.story import Story, describe, family
from zebra.reports.wording import count, one_line

TEXT_MAX, EVENT_BYTES = 160, 24


class Details:
    """The events of as many kinds as `size_bytes` hold, the rarest first; half of that is for what their fields say.

    The fields of the more frequent kinds, and then their events, are left out; `notes` say so.
    """

    def __init__(self, story: Story, size_bytes: int) -> None:
        counts = Counter(event.kind for event in story.marks)
        ranked = sorted(counts, key=lambda kind: (counts[kind], kind))
        order, texts, sizes = {kind: index for index, kind in enumerate(ranked)}, list[str](), Counter[str]()
        for event in story.marks:
            texts.append(describe(event, TEXT_MAX).partition(f" s {event.kind}")[2].strip())
            sizes[event.kind] += len(texts[-1])
        kept = _within(ranked, {kind: EVENT_BYTES * counts[kind] for kind in ranked}, size_bytes // 2)
        told = _within(ranked, sizes, size_bytes // 2) & kept
        self.nodes = {node: index for index, node in enumerate(story.nodes)}
        events = [
            [round(event.t, 6), self.nodes[event.node], order[event.kind], *([text] if event.kind in told else [])]
            for event, text in zip(story.marks, texts, strict=True)
            if event.kind in kept
        ]
        self.json = script_json(
            {
                "nodes": [one_line(node or "(run)", 60) for node in story.nodes],
                "kinds": [[one_line(kind, 60), story.colours[family(kind)]] for kind in ranked],
                "events": events,
                "complete": len(kept) == len(ranked),
            }
        )
        self.notes = [
            one_line(f"{count(sum(counts[k] for k in kinds), 'event')} {what}: {', '.join(kinds[:6])}", 300)
            for kinds, what in (
                ([kind for kind in ranked if kind in kept - told], "have their fields in history.jsonl only"),
                ([kind for kind in ranked if kind not in kept], "are in history.jsonl only"),
            )
            if kinds
        ]


def _within(ranked: list[str], sizes: dict[str, int], room: int) -> set[str]:
    """The first of these kinds that fit together."""
    kept = set[str]()
    for kind in ranked:
        room -= sizes[kind]
        if room < 0:
            break
        kept.add(kind)
    return kept


def script_json(value: object) -> Markup:
    """JSON that stays inside a `<script>`: no `<`, `>` or `&` is left in it, and nothing beyond ASCII."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def lanes_json(lanes: Iterable[tuple[str, float]], nodes: dict[str, int]) -> str:
    """Where the lanes of a picture are: the index of each node, and its y."""
    return json.dumps([[nodes[node], y] for node, y in lanes if node in nodes], separators=(",", ":"))
