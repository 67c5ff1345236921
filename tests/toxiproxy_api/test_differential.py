"""The same requests to a real Toxiproxy server and to ours: the same statuses, bodies and bytes.

What differs on purpose is in `docs/toxiproxy.md` and is either left out of the requests or made equal by `plain`:
the `Logger` object, our version, the words after `bad request body:`, addresses without a host, half-closes, resets
that one side sends, extensions, and what a real server dies of (a negative rate, a slicer of size 0).
"""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.toxiproxy_api.reading import read

HOST = "127.0.0.1"
NO_SHRINKING = (Phase.explicit, Phase.generate)  # two live servers take minutes to shrink with
NAMES = st.sampled_from(["p", "q"])
MOSTLY = st.sampled_from([True, True, True, False])
UPDATES = st.sampled_from(["POST", "PATCH"])
TOXICS = st.sampled_from(["t", "u", "latency_downstream"])
NOT_JSON = st.sampled_from(
    ["", "{", "[", "nul", '"x', "{'a':1}", '{"a":01}', '{"a":1,}', "\ufeff{}", "\x00", '{"a":NaN}']
)
NOT_AN_OBJECT = st.sampled_from(["[]", "1", '"x"', "true", "[1]"])
WHOLE = st.sampled_from([0, 1, 7, -3, 2**63 - 1, None])
BAD_WHOLE = st.sampled_from([1.5, "1", True, [], {}, 2**63])
TOXICITY = st.sampled_from([0, 0.25, 1, 1.5, -1, 0.1, 1 / 3, 16777217, 1e-7, 1e21, None])
STREAM = st.sampled_from(["upstream", "downstream", "UPSTREAM", None])
LISTEN = st.sampled_from([f"{HOST}:0", "localhost:0", f"{HOST}:", "garbage", f"{HOST}:99999", f"{HOST}:-1", HOST, None])
UPSTREAM = st.sampled_from([f"{HOST}:9", f"{HOST}:10", "nonsense", "", None])
ENABLED = st.sampled_from([True, False, None])

ATTRIBUTES = {
    "bandwidth": ("rate",),
    "latency": ("latency", "jitter"),
    "limit_data": ("bytes",),
    "noop": (),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
}


def attributes(of: str) -> st.SearchStrategy[Any]:
    good = st.fixed_dictionaries({}, optional=dict.fromkeys(ATTRIBUTES[of], WHOLE))
    bad = st.sampled_from(ATTRIBUTES[of] or ("x",)).flatmap(lambda name: BAD_WHOLE.map(lambda value: {name: value}))
    return st.one_of(good, good, bad if ATTRIBUTES[of] else good, st.sampled_from([None, [], "x"]))


BODIES = st.sampled_from(sorted(ATTRIBUTES)).flatmap(
    lambda type_: st.fixed_dictionaries(
        {"type": st.just(type_)},
        optional={"name": TOXICS, "stream": STREAM, "toxicity": TOXICITY, "attributes": attributes(type_)},
    )
)
WRONG = st.sampled_from(
    [{"type": "nope"}, {"type": "latency", "stream": "up"}, {"type": "nope", "stream": ""}, {}, {"type": 3},
     {"stream": []},
     {"type": "latency", "toxicity": "1"}, {"type": "latency", "name": 5}, {"TYPE": "latency", "Name": "u"},
     {"type": "latency", "toxicity": 1e39}]
)  # fmt: skip


def plain(status: int, data: bytes) -> tuple[int, Any]:
    """An answer without what differs on purpose or by chance."""
    text = data.decode()
    text = re.sub(r'("error":"bad request body: )(?!EOF)(?:[^"\\]|\\.)*', r"\1...", text)
    text = re.sub(r"\[::\]|0\.0\.0\.0", HOST, text)
    text = re.sub(rf"{re.escape(HOST)}:[1-9]\d{{3,4}}\b", f"{HOST}:PORT", text)
    try:
        answer = json.loads(text)
    except ValueError:
        return status, text
    return status, _without_loggers(answer)


def _without_loggers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_loggers(each) for key, each in value.items() if key != "Logger"}
    return [_without_loggers(each) for each in value] if isinstance(value, list) else value


class Machine(RuleBasedStateMachine):
    """Both servers, asked the same. `there` makes sure first that there is something to ask about."""

    both: tuple[Any, Any]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        text = body if isinstance(body, str | None) else json.dumps(body)
        data = None if text is None else text.encode()
        real, ours = (plain(*api.raw(method, path, data)) for api in self.both)
        assert ours == real, f"{method} {path} {text}\n  real {real}\n  ours {ours}"
        return real

    @initialize()
    def clear(self) -> None:
        for api in self.both:
            for name in api.ok("GET", "/proxies"):
                api.ok("DELETE", f"/proxies/{name}")

    def make(self, name: str, toxic: str = "", type_: str = "") -> None:
        if self.ask("GET", f"/proxies/{name}")[0] == 404:
            self.ask("POST", "/proxies", {"name": name, "listen": f"{HOST}:0", "upstream": f"{HOST}:9"})
        if toxic and self.ask("GET", f"/proxies/{name}/toxics/{toxic}")[0] == 404:
            self.ask("POST", f"/proxies/{name}/toxics", {"name": toxic, "type": type_})

    @rule(
        name=NAMES | st.none(), listen=LISTEN.filter(lambda text: text is not None), upstream=UPSTREAM, enabled=ENABLED
    )
    def create(self, **fields: Any) -> None:
        self.ask("POST", "/proxies", fields)

    @rule(name=NAMES, there=MOSTLY, listen=LISTEN, upstream=UPSTREAM, enabled=ENABLED, method=UPDATES)
    def update(self, name: str, there: bool, method: str, **fields: Any) -> None:
        if there:
            self.make(name)
        self.ask(method, f"/proxies/{name}", {k: v for k, v in fields.items() if v is not None})
        self.ask("GET", f"/proxies/{name}")

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.ask("DELETE", f"/proxies/{name}")

    @rule(name=NAMES, there=MOSTLY, body=BODIES | WRONG)
    def add_toxic(self, name: str, there: bool, body: Any) -> None:
        if there:
            self.make(name)
        self.ask("POST", f"/proxies/{name}/toxics", body)
        self.ask("GET", f"/proxies/{name}/toxics")

    @rule(name=NAMES, there=MOSTLY, toxic=TOXICS, toxicity=TOXICITY, body=BODIES, method=UPDATES)
    def update_toxic(self, name: str, there: bool, toxic: str, toxicity: Any, body: Any, method: str) -> None:
        if there:
            self.make(name, toxic, body["type"])
        found = self.ask("GET", f"/proxies/{name}/toxics/{toxic}")
        if found[0] == 200 and found[1]["type"] != body["type"]:
            body = {"type": body["type"]}
        self.ask(method, f"/proxies/{name}/toxics/{toxic}", {**body, "toxicity": toxicity})
        self.ask("GET", f"/proxies/{name}/toxics/{toxic}")

    @rule(name=NAMES, toxic=TOXICS)
    def remove_toxic(self, name: str, toxic: str) -> None:
        self.ask("DELETE", f"/proxies/{name}/toxics/{toxic}")

    @rule(items=st.lists(st.fixed_dictionaries({"name": NAMES, "upstream": UPSTREAM, "enabled": ENABLED}), max_size=3))
    def populate(self, items: list[dict[str, Any]]) -> None:
        self.ask("POST", "/populate", [{**item, "listen": f"{HOST}:0"} for item in items])

    @rule()
    def reset(self) -> None:
        proxies = self.ask("GET", "/proxies")[1].values()
        if all(re.fullmatch(r"[\w.]+:(0?|PORT)", proxy["listen"]) for proxy in proxies):
            self.ask("POST", "/reset")

    @rule(
        where=st.sampled_from(["/proxies", "/populate", "/proxies/p", "/proxies/p/toxics", "/proxies/p/toxics/t"]),
        body=NOT_JSON | NOT_AN_OBJECT | st.just("null"),
    )
    def not_an_object(self, where: str, body: str) -> None:
        self.make("p", "t", "latency")
        self.ask("POST", where, body)

    @rule(
        method=st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "FOO"]),
        path=st.sampled_from(
            ["/", "/none", "/proxies/", "/proxies", "/populate", "/reset", "/proxies/p", "/proxies/p/toxics",
             "//proxies", "/proxies/p/toxics/t", "/proxies/p/", "/proxies/none", "/proxies/%70", "/proxies/p%2Ftoxics",
             "/proxies?a=b", "/proxies/p/toxics/t/x", "/proxies/../reset"]
        ),
    )  # fmt: skip
    def any_path(self, method: str, path: str) -> None:
        self.ask(method, path)

    def teardown(self) -> None:
        self.ask("GET", "/proxies")


def test_the_control_api_answers_as_the_real_one_does(real: Any, api: Any) -> None:
    class Both(Machine):
        both = (real, api)

    run_state_machine_as_test(
        Both,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, phases=NO_SHRINKING,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


SIZES = st.lists(st.sampled_from([1, 10, 50, 120]) | st.integers(1, 120), max_size=5)
DIRECTIONS = st.sampled_from(["upstream", "downstream"])
LIVE = st.one_of(
    st.builds(lambda n: ("latency", {"latency": n}), st.integers(0, 8)),
    st.builds(
        lambda n: ("limit_data", {"bytes": n}), st.sampled_from([0, 1, 10, 11, 20, 50, 60, 120]) | st.integers(0, 400)
    ),
    st.builds(lambda n: ("slicer", {"average_size": n, "size_variation": n // 2}), st.integers(8, 60)),
    st.builds(lambda n: ("bandwidth", {"rate": n}), st.integers(50, 5000)),
    st.builds(lambda n: ("slow_close", {"delay": n}), st.integers(0, 8)),
    st.just(("timeout", {"timeout": 0})),
    st.just(("reset_peer", {"timeout": 0})),
    st.just(("noop", {})),
)


Got = list[tuple[bytes, str]]


@dataclass
class Talk:
    """A conversation through one of the servers: each side sends all it has, then the first one closes."""

    toxics: list[dict[str, Any]]
    live: bool
    requests: list[int]
    answers: list[int]
    first: str

    def hold(self, api: Any, upstream: Any, quiet_s: float) -> tuple[Got, tuple[bytes, str]]:
        """What either end got, and what the one that did not close got at the end."""
        where = api.proxy(upstream.address, *([] if self.live else self.toxics))
        with ExitStack() as stack:
            client = stack.enter_context(socket.create_connection(where, timeout=5))
            server = stack.enter_context(upstream.sock.accept()[0])
            for toxic in self.toxics if self.live else ():
                api.ok("POST", "/proxies/p/toxics", toxic)
            ways = [(client, server, self.requests), (server, client, self.answers)]
            sides = ways if self.first == "client" else ways[::-1]
            got = [_send(*way, quiet_s) for way in sides]
            sides[0][0].close()
            return _alike(got, read(sides[0][1], quiet_s))


def _alike(got: Got, end: tuple[bytes, str]) -> tuple[Got, tuple[bytes, str]]:
    """With every reset an end once bytes were cut off: it hangs on the moment which one their sender is answered by."""
    if all(how == "all" for _, how in got):
        return got, end
    return [(data, how.replace("reset", "end")) for data, how in got], (end[0], end[1].replace("reset", "end"))


def _send(source: socket.socket, target: socket.socket, sizes: list[int], quiet_s: float) -> tuple[bytes, str]:
    sent = b"".join(bytes([65 + number % 26]) * size for number, size in enumerate(sizes))
    try:
        source.sendall(sent)
    except OSError:
        pass
    return read(target, quiet_s, len(sent))


@settings(
    max_examples=120, deadline=None, derandomize=True, phases=NO_SHRINKING, suppress_health_check=list(HealthCheck)
)
@given(toxics=st.lists(st.tuples(LIVE, DIRECTIONS), max_size=3), live=st.booleans(), requests=SIZES, answers=SIZES,
       first=st.sampled_from(["client", "server"]))  # fmt: skip
def test_both_carry_the_same_bytes(real: Any, api: Any, upstream: Any, toxics: list[Any], live: bool,
                                   requests: list[int], answers: list[int], first: str) -> None:  # fmt: skip
    bodies = [
        {"name": f"t{number}", "type": type_, "stream": stream, "attributes": settings_}
        for number, ((type_, settings_), stream) in enumerate(toxics)
    ]
    # A reset_peer is about how sockets are closed, in a real server: of a connection that was on it is no reset, and of
    # one that came later every end is one, also those that other toxics bring about.
    if live or any(body["type"] in ("limit_data", "timeout") for body in bodies):
        bodies = [body for body in bodies if body["type"] != "reset_peer"]
    resets = any(body["type"] == "reset_peer" for body in bodies)
    talk = Talk(bodies, live, requests, answers, first)
    for quiet_s in (0.25, 2.0):  # on a busy machine, what seems to hang may only be late
        theirs, ours = (talk.hold(each, upstream, quiet_s) for each in (real, api))
        if resets:
            theirs, ours = ((got, (end[0], "over")) for got, end in (theirs, ours))
        if ours == theirs:
            return
    raise AssertionError(f"{talk}\n  real {theirs}\n  ours {ours}")
