"""The control API: statuses, defaults and error bodies, as a real server was seen to give them."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

UP = "127.0.0.1:9"
LOCAL = "127.0.0.1:0"


def error(status: int, message: str) -> dict[str, Any]:
    return {"error": message, "status": status}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "bad request body: EOF"),
        ("{", 400, "bad request body: unexpected EOF"),
        ("[]", 400, "bad request body: it must be an object, not a list"),
        ("null", 400, "missing required field: name"),
        ("{}", 400, "missing required field: name"),
        ({"name": "x"}, 400, "missing required field: upstream"),
        ({"name": "", "upstream": ""}, 400, "missing required field: name"),
        ({"name": 1}, 400, "bad request body: name must be a string, not 1"),
        ({"name": "x", "upstream": UP, "enabled": "yes"}, 400,
         'bad request body: enabled must be true or false, not "yes"'),
        ({"name": "x", "upstream": UP, "listen": "garbage"}, 500,
         "listen tcp: address garbage: missing port in address"),
        ({"name": "x", "upstream": UP, "listen": "127.0.0.1:99999"}, 500, "listen tcp: address 99999: invalid port"),
        ({"name": "x", "upstream": UP, "protocol": "sctp"}, 400,
         "bad request body: protocol must be tcp or udp, not 'sctp'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_new_proxy_is_said_in_one_line(api: Any, body: Any, status: int, message: str) -> None:
    assert api("POST", "/proxies", body) == (status, error(status, message))
    assert api("GET", "/proxies") == (200, {})


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", '{"name":NaN}', "{'name':1}", '{"a":01}', '{"name":"x",}', "nul", "[" * 100_000]
)
def test_what_is_not_json_is_a_bad_request_body(api: Any, body: bytes | str) -> None:
    status, answer = api("POST", "/proxies", body)
    assert status == 400 and answer["error"].startswith("bad request body: ")


def test_json_is_read_as_leniently_as_the_original_reads_it(api: Any) -> None:
    made = api.ok("POST", "/proxies", '{"NAME":"a","Upstream":"x:1","LISTEN":"127.0.0.1:0","more":[1]} and more')
    assert (made["name"], made["upstream"], made["enabled"]) == ("a", "x:1", True)
    made = api.ok("POST", "/proxies", b'{"name":"b\xff\\ud800","upstream":"x","enabled":null}')
    assert made["name"] == "b\ufffd\ufffd" and made["enabled"]


def test_a_new_proxy_listens_on_loopback_unless_told_otherwise(api: Any) -> None:
    for number, listen in enumerate((None, "", ":0", "localhost:0", "127.0.0.1:")):
        made = api.ok("POST", "/proxies", {"name": f"p{number}", "upstream": UP, "listen": listen})
        assert made == {"name": f"p{number}", "listen": made["listen"], "upstream": UP, "enabled": True, "toxics": []}
        host, _, port = made["listen"].rpartition(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port))).close()
    assert api.ok("POST", "/proxies", {"name": "six", "upstream": UP, "listen": "[::1]:0"})["listen"].startswith(
        "[::1]:"
    )
    disabled = api.ok("POST", "/proxies", {"name": "off", "upstream": UP, "enabled": False})
    assert (disabled["listen"], disabled["enabled"]) == ("", False)


def test_a_name_and_an_address_are_taken_once(api: Any) -> None:
    made = api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    assert api("POST", "/proxies", {"name": "p", "upstream": UP}) == (409, error(409, "proxy already exists"))
    status, answer = api("POST", "/proxies", {"name": "q", "upstream": UP, "listen": made["listen"]})
    assert (status, answer["error"]) == (500, f"listen tcp {made['listen']}: bind: address already in use")
    assert list(api.ok("GET", "/proxies")) == ["p"]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 404, "404 page not found\n"),
        ("GET", "/proxies/", 404, "404 page not found\n"),
        ("GET", "/proxies/a%2Fb/toxics", 404, "404 page not found\n"),
        ("PUT", "/proxies", 405, ""),
        ("HEAD", "/proxies", 405, ""),
        ("GET", "/reset", 405, ""),
        ("DELETE", "/proxies/p/toxics", 405, ""),
        ("FOO", "/populate", 405, ""),
        ("GET", "//proxies", 301, ""),
        ("GET", "/proxies/none", 404, '{"error":"proxy not found","status":404}\n'),
        ("POST", "/proxies/none", 404, '{"error":"proxy not found","status":404}\n'),
        ("DELETE", "/proxies/none", 404, '{"error":"proxy not found","status":404}\n'),
        ("POST", "/proxies/none/toxics", 404, '{"error":"proxy not found","status":404}\n'),
        ("GET", "/proxies/none/toxics/t", 404, '{"error":"proxy not found","status":404}\n'),
        ("PATCH", "/proxies/p/toxics/t", 404, '{"error":"toxic not found","status":404}\n'),
        ("DELETE", "/proxies/p/toxics/t", 404, '{"error":"toxic not found","status":404}\n'),
    ],
)  # fmt: skip
def test_paths_and_methods(api: Any, method: str, path: str, status: int, body: str) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    assert api.raw(method, path, "{" if method in ("POST", "PATCH") else None) == (status, body.encode())


def test_a_browser_is_refused(api: Any) -> None:
    assert api("GET", "/proxies", **{"User-Agent": "Mozilla/5.0"}) == (403, "User agent not allowed\n")
    assert api("GET", "/none", **{"User-Agent": "Mozilla/5.0"})[0] == 404


def test_version_says_ours(api: Any) -> None:
    assert set(api.ok("GET", "/version")) == {"version"}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_updating_a_proxy(api: Any, method: str) -> None:
    made = api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    path = "/proxies/p"
    assert api.ok(method, path, "{}") == made
    assert api.ok(method, path, {"name": "other", "listen": None, "enabled": None}) == made
    assert api.ok(method, path, {"listen": made["listen"].replace("127.0.0.1", "localhost")}) == made
    assert api.ok(method, path, {"enabled": False}) == {**made, "enabled": False}
    assert api.ok(method, path, {"upstream": "x:1"}) == {**made, "enabled": False, "upstream": "x:1"}
    assert api.ok(method, path, {"listen": LOCAL})["listen"] == LOCAL
    up = api.ok(method, path, {"enabled": True})
    assert up["enabled"] and up["listen"] not in (LOCAL, made["listen"])
    assert api(method, path, {"enabled": "x"})[0] == 400
    assert api(method, path, {"listen": "garbage"}) == (500, error(500, "address garbage: missing port in address"))
    assert api.ok("GET", path) == up
    taken = f"127.0.0.1:{api.port}"
    assert api(method, path, {"listen": taken}) == (
        500,
        error(500, f"listen tcp {taken}: bind: address already in use"),
    )
    assert api.ok("GET", path) == {**up, "listen": taken, "enabled": False}


ATTRIBUTES = {
    "bandwidth": {"rate": 0},
    "latency": {"latency": 0, "jitter": 0},
    "limit_data": {"bytes": 0},
    "noop": {},
    "packet_loss": {"loss_rate": 0, "correlation": 0},
    "reset_peer": {"timeout": 0},
    "slicer": {"average_size": 0, "size_variation": 0, "delay": 0},
    "slow_close": {"delay": 0},
    "timeout": {"timeout": 0},
}


@pytest.mark.parametrize("type_", ATTRIBUTES)
def test_a_toxic_has_defaults_and_can_be_changed_while_it_is_on(api: Any, type_: str) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    toxics = "/proxies/p/toxics"
    status, made = api("POST", toxics, {"type": type_})
    assert status == 200
    assert made == {"attributes": ATTRIBUTES[type_], "name": f"{type_}_downstream", "type": type_,
                    "stream": "downstream", "toxicity": 1}  # fmt: skip
    assert api("POST", toxics, {"type": type_}) == (409, error(409, "toxic already exists"))
    for method in ("POST", "PATCH"):
        for name in ATTRIBUTES[type_]:
            made["attributes"][name] += 1
            assert api.ok(method, f"{toxics}/{made['name']}", {"attributes": {name: made["attributes"][name]}}) == made
        made["toxicity"] /= 2
        assert api.ok(method, f"{toxics}/{made['name']}", {"toxicity": made["toxicity"], "type": "noop"}) == made
    assert api.ok("GET", toxics) == [made] == api.ok("GET", "/proxies/p")["toxics"]
    assert api.ok("GET", f"{toxics}/{made['name']}") == made
    assert api("DELETE", f"{toxics}/{made['name']}") == (204, None)
    assert api.ok("GET", toxics) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("null", "invalid toxic type"),
        ({"type": "Latency"}, "invalid toxic type"),
        ({"type": "nope", "stream": "up"}, "stream was invalid, can be either upstream or downstream"),
        ({"type": "latency", "stream": ""}, "stream was invalid, can be either upstream or downstream"),
        ({"type": "latency", "toxicity": "1"}, 'bad request body: toxicity must be a number of 32 bits, not "1"'),
        ('{"type":"latency","toxicity":1e39}', "bad request body: toxicity must be a number of 32 bits, not 1e39"),
        ({"type": "latency", "attributes": []}, "bad request body: attributes must be an object, not a list"),
        ({"type": "latency", "attributes": {"latency": 1.0}},
         "bad request body: attributes.latency must be a whole number of 64 bits, not 1.0"),
        ({"type": "latency", "attributes": {"latency": 2**63}},
         "bad request body: attributes.latency must be a whole number of 64 bits, not 9223372036854775808"),
        ({"type": "latency", "lease_s": -1},
         "bad request body: lease_s must be seconds from 0, for no lease, to 1e+07, not -1"),
        ({"type": "latency", "sources": ["x"]},
         "bad request body: sources must be addresses or networks: 'x' does not appear to be an IPv4 or IPv6 network"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_toxic_is_said_in_one_line(api: Any, body: Any, message: str) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    assert api("POST", "/proxies/p/toxics", body) == (400, error(400, message))
    assert api.ok("GET", "/proxies/p/toxics") == []


def test_a_bad_update_changes_nothing(api: Any) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    toxic = api.ok("POST", "/proxies/p/toxics", {"type": "latency", "attributes": {"latency": 3}})
    for body in ({"attributes": {"jitter": 9, "latency": "x"}}, {"attributes": {"latency": 1}, "toxicity": "x"}):
        assert api("POST", "/proxies/p/toxics/latency_downstream", body)[0] == 400
    assert api.ok("GET", "/proxies/p/toxics") == [toxic]


def test_numbers_are_kept_as_the_original_keeps_them(api: Any) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    for given, kept in (
        ("0.1", 0.1),
        ("0.33333333333", 0.33333334),
        ("16777217", 16777216),
        ("-1", -1),
        ("1e-7", 1e-7),
    ):
        body = f'{{"type":"noop","name":"n{given}","toxicity":{given}}}'
        assert api.ok("POST", "/proxies/p/toxics", body)["toxicity"] == kept
    large = {"type": "latency", "attributes": {"LATENCY": 2**63 - 1, "jitter": -5, "x": 1}}
    assert api.ok("POST", "/proxies/p/toxics", large)["attributes"] == {"latency": 2**63 - 1, "jitter": -5}


def test_toxics_are_listed_upstream_first_in_the_order_in_which_they_came(api: Any) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    for name, stream in (("a", "downstream"), ("b", "upstream"), ("c", "UPSTREAM"), ("d", "Downstream")):
        assert api.ok("POST", "/proxies/p/toxics", {"type": "noop", "name": name, "stream": stream})["stream"] == stream
    assert [toxic["name"] for toxic in api.ok("GET", "/proxies/p/toxics")] == ["b", "c", "a", "d"]


def test_reset_enables_all_and_removes_all_toxics(api: Any) -> None:
    api.ok("POST", "/proxies", {"name": "p", "upstream": UP, "listen": LOCAL})
    api.ok("POST", "/proxies", {"name": "q", "upstream": UP, "listen": LOCAL, "enabled": False})
    api.ok("POST", "/proxies/q/toxics", {"type": "latency"})
    assert api("POST", "/reset", "whatever") == (204, None)
    assert all(proxy["enabled"] and not proxy["toxics"] for proxy in api.ok("GET", "/proxies").values())
    api.ok("POST", "/proxies", {"name": "bad", "upstream": UP, "listen": "garbage", "enabled": False})
    assert api("POST", "/reset") == (500, error(500, "listen tcp: address garbage: missing port in address"))


def test_populate_creates_keeps_and_replaces(api: Any) -> None:
    assert api("POST", "/populate", "null") == (201, {"proxies": None})
    assert api("POST", "/populate", "[]") == (201, {"proxies": None})
    one, two = {"name": "p", "upstream": UP, "listen": LOCAL}, {"name": "q", "upstream": UP, "listen": LOCAL}
    made = api.ok("POST", "/populate", [one, {**two, "enabled": False}])["proxies"]
    assert [(each["name"], each["enabled"]) for each in made] == [("p", True), ("q", False)]
    api.ok("POST", "/proxies/p/toxics", {"type": "noop"})
    same = api.ok("POST", "/populate", [{**one, "listen": made[0]["listen"], "enabled": False}])["proxies"]
    assert same == [api.ok("GET", "/proxies/p")] and same[0]["enabled"] and same[0]["toxics"]
    other = api.ok("POST", "/populate", [{**one, "listen": made[0]["listen"], "upstream": "x:1"}])["proxies"]
    assert other == [{**made[0], "upstream": "x:1"}]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "bad request body: EOF"),
        ({}, 400, "bad request body: it must be a list, not an object"),
        ([1], 400, "bad request body: it must be an object, not 1"),
        ([None], 400, "missing required field: name at proxy 1"),
        ([{"name": "a", "upstream": UP}, {"name": "b"}], 400, "missing required field: upstream at proxy 2"),
    ],
)
def test_populate_does_nothing_when_an_item_is_bad(api: Any, body: Any, status: int, message: str) -> None:
    assert api("POST", "/populate", body) == (status, {**error(status, message), "proxies": None})
    assert api.ok("GET", "/proxies") == {}


def test_populate_says_what_it_did_before_it_failed(api: Any) -> None:
    items = [
        {"name": name, "upstream": UP, "listen": listen} for name, listen in (("a", LOCAL), ("b", "x"), ("c", LOCAL))
    ]
    status, answer = api("POST", "/populate", items)
    assert (status, answer["error"]) == (500, "listen tcp: address x: missing port in address")
    assert [proxy["name"] for proxy in answer["proxies"]] == ["a"] == list(api.ok("GET", "/proxies"))


def test_a_proxy_comes_with_its_toxics_or_not_at_all(api: Any) -> None:
    good, bad = {"type": "latency", "attributes": {"latency": 5}}, {"type": "nope"}
    proxy = {"name": "p", "upstream": UP, "listen": LOCAL}
    assert api("POST", "/proxies", {**proxy, "toxics": [good, bad]}) == (400, error(400, "invalid toxic type"))
    assert api("POST", "/proxies", {**proxy, "toxics": [good, good]}) == (409, error(409, "toxic already exists"))
    assert api.ok("GET", "/proxies") == {}
    made = api.ok("POST", "/proxies", {**proxy, "toxics": [good]})
    assert made["toxics"] == api.ok("GET", "/proxies/p/toxics") != []


def test_answers_are_json_by_their_content_type(api: Any) -> None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{api.port}/proxies") as response:
        assert response.headers["Content-Type"] == "application/json"
        assert json.loads(response.read()) == {}
