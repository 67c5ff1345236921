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
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

HOST = "127.0.0.1"
NAMES = st.sampled_from(["p", "q"])
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
    [{"type": "nope"}, {"type": "latency", "stream": "up"}, {"type": "nope", "stream": ""}, {}, {"type": 3}, {"stream": []},
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
    """Both servers, asked the same."""

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

    @rule(
        name=NAMES | st.none(), listen=LISTEN.filter(lambda text: text is not None), upstream=UPSTREAM, enabled=ENABLED
    )
    def create(self, **fields: Any) -> None:
        self.ask("POST", "/proxies", fields)

    @rule(name=NAMES, enabled=ENABLED, upstream=UPSTREAM)
    def create_good(self, name: str, enabled: bool | None, upstream: str | None) -> None:
        self.ask(
            "POST", "/proxies", {"name": name, "listen": f"{HOST}:0", "upstream": upstream or "x:1", "enabled": enabled}
        )

    @rule(name=NAMES, listen=LISTEN, upstream=UPSTREAM, enabled=ENABLED, method=st.sampled_from(["POST", "PATCH"]))
    def update(self, name: str, method: str, **fields: Any) -> None:
        self.ask(method, f"/proxies/{name}", {k: v for k, v in fields.items() if v is not None})
        self.ask("GET", f"/proxies/{name}")

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.ask("DELETE", f"/proxies/{name}")

    @rule(name=NAMES, body=BODIES | WRONG)
    def add_toxic(self, name: str, body: Any) -> None:
        self.ask("POST", f"/proxies/{name}/toxics", body)

    @rule(name=NAMES, toxic=TOXICS, toxicity=TOXICITY, body=BODIES, method=st.sampled_from(["POST", "PATCH"]))
    def update_toxic(self, name: str, toxic: str, toxicity: Any, body: Any, method: str) -> None:
        found = self.ask("GET", f"/proxies/{name}/toxics/{toxic}")
        if found[0] == 200 and found[1]["type"] != body["type"]:
            body = {"type": body["type"]}
        self.ask(method, f"/proxies/{name}/toxics/{toxic}", {**body, "toxicity": toxicity})

    @rule(name=NAMES, toxic=TOXICS)
    def remove_toxic(self, name: str, toxic: str) -> None:
        self.ask("DELETE", f"/proxies/{name}/toxics/{toxic}")

    @rule(items=st.lists(st.fixed_dictionaries({"name": NAMES, "upstream": UPSTREAM, "enabled": ENABLED}), max_size=3))
    def populate(self, items: list[dict[str, Any]]) -> None:
        self.ask("POST", "/populate", [{**item, "listen": f"{HOST}:0"} for item in items])

    @rule()
    def reset(self) -> None:
        proxies = self.ask("GET", "/proxies")[1].values()
        if all(re.fullmatch(r"[\w.]+:(\d*|PORT)", proxy["listen"]) for proxy in proxies):
            self.ask("POST", "/reset")

    @rule(
        where=st.sampled_from(["/proxies", "/populate", "/proxies/p", "/proxies/p/toxics", "/proxies/p/toxics/t"]),
        body=NOT_JSON | NOT_AN_OBJECT | st.just("null"),
    )
    def not_an_object(self, where: str, body: str) -> None:
        self.ask("POST", where, body)

    @rule(
        method=st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "FOO"]),
        path=st.sampled_from(
            ["/", "/none", "/proxies/", "/proxies", "/populate", "/reset", "/proxies/p", "/proxies/p/toxics",
             "/proxies/p/toxics/t", "/proxies/p/", "/proxies/none", "/proxies/%70", "/proxies/p%2Ftoxics", "/proxies?a=b",
             "/proxies/p/toxics/t/x", "//proxies", "/proxies/../reset"]
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
            max_examples=60, stateful_step_count=25, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


LIVE = st.one_of(
    st.builds(lambda n: ("latency", {"latency": n}), st.integers(0, 8)),
    st.builds(lambda n: ("limit_data", {"bytes": n}), st.integers(0, 400)),
    st.builds(lambda n: ("slicer", {"average_size": n, "size_variation": n // 2}), st.integers(8, 60)),
    st.builds(lambda n: ("bandwidth", {"rate": n}), st.integers(50, 5000)),
    st.builds(lambda n: ("slow_close", {"delay": n}), st.integers(0, 8)),
    st.just(("timeout", {"timeout": 0})),
    st.just(("reset_peer", {"timeout": 0})),
    st.just(("noop", {})),
)


class Streams(RuleBasedStateMachine):
    """One connection through each server at a time; both ends have to see the same bytes and the same end."""

    both: tuple[Any, Any]
    upstream: Any

    @initialize()
    def begin(self) -> None:
        self.places = [api.proxy(self.upstream.address) for api in self.both]
        self.toxics: dict[str, str] = {}
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        for api in self.both:
            api.ok(method, f"/proxies/p{path}", body)

    @rule(toxic=LIVE, stream=st.sampled_from(["upstream", "downstream"]))
    def add(self, toxic: tuple[str, dict[str, int]], stream: str) -> None:
        type_, settings_ = toxic
        name = f"{type_}_{stream}"
        if name not in self.toxics and not self.pairs:
            self.toxics[name] = type_
            self._ask("POST", "/toxics", {"type": type_, "stream": stream, "attributes": settings_})

    @rule()
    def remove_all(self) -> None:
        if not self.pairs:
            for name in self.toxics:
                self._ask("DELETE", f"/toxics/{name}")
            self.toxics.clear()

    @rule(requests=st.lists(st.integers(1, 120), max_size=5), answers=st.lists(st.integers(1, 120), max_size=5),
          first=st.sampled_from(["client", "server"]))  # fmt: skip
    def talk(self, requests: list[int], answers: list[int], first: str) -> None:
        seen = [self._talk(where, requests, answers, first) for where in self.places]
        assert seen[1] == seen[0], f"toxics {sorted(self.toxics)}\n  real {seen[0]}\n  ours {seen[1]}"

    def _talk(self, where: tuple[str, int], requests: list[int], answers: list[int], first: str) -> Any:
        """What both ends got, when each has sent all before either of them closed."""
        with ExitStack() as stack:
            client = stack.enter_context(socket.create_connection(where, timeout=5))
            server = stack.enter_context(self.upstream.sock.accept()[0])
            ways = [(client, server, requests), (server, client, answers)]
            made = [self._send(*way) for way in (ways if first == "client" else ways[::-1])]
            (client if first == "client" else server).close()
            end = self._read(server if first == "client" else client)
        return made, end if "timeout" not in self.toxics.values() else None

    def _send(self, source: socket.socket, target: socket.socket, sizes: list[int]) -> Any:
        sent = b"".join(bytes([65 + number % 26]) * size for number, size in enumerate(sizes))
        try:
            source.sendall(sent)
        except OSError:
            pass
        return self._read(target, len(sent))

    def _read(self, sock: socket.socket, want: int = -1) -> tuple[bytes, str]:
        sock.settimeout(0.25)
        got = b""
        try:
            while len(got) != want:
                data = sock.recv(65536 if want < 0 else want - len(got))
                if not data:
                    return got, "end"
                got += data
        except TimeoutError:
            return got, "quiet"
        except OSError:
            return got, "reset"
        return got, "all"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_both_carry_the_same_bytes(real: Any, api: Any, upstream: Any) -> None:
    class Both(Streams):
        both = (real, api)

    Both.upstream = upstream
    run_state_machine_as_test(
        Both,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
