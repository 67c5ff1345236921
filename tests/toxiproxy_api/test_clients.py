"""The clients that people have drive our server: toxiproxy-python, and Chaos Toolkit with its Toxiproxy extension."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_toxiproxy_python(api: Any, upstream: Any) -> None:
    from toxiproxy import Toxiproxy  # type: ignore[import-untyped]
    from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists  # type: ignore[import-untyped]

    server = Toxiproxy()
    server.update_api_consumer("127.0.0.1", api.port)
    assert server.running() and "version" in json.loads(server.version())
    proxy = server.create(name="db", listen="127.0.0.1:0", upstream=upstream.address)
    with pytest.raises(ProxyExists):
        server.create(name="db", upstream=upstream.address)
    host, _, port = proxy.listen.rpartition(":")
    client, behind = upstream.pair((host, int(port)))
    proxy.add_toxic(type="latency", attributes={"latency": 100})
    behind.sendall(b"x")
    started = time.monotonic()
    assert client.recv(1) == b"x" and time.monotonic() - started >= 0.09
    toxic = proxy.get_toxic("latency_downstream")
    assert (toxic.type, toxic.attributes) == ("latency", {"latency": 100, "jitter": 0})
    with pytest.raises(InvalidToxic):
        proxy.add_toxic(type="nope")
    assert proxy.destroy_toxic("latency_downstream") and proxy.toxics() == {}
    with pytest.raises(NotFound):
        proxy.destroy_toxic("latency_downstream")
    with proxy.down():
        assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
    upstream.pair((host, int(port)))
    made = server.populate([{"name": "one", "upstream": upstream.address, "listen": "127.0.0.1:0"},
                            {"name": "two", "upstream": upstream.address, "listen": "127.0.0.1:0"}])  # fmt: skip
    assert [each.name for each in made] == ["one", "two"] and set(server.proxies()) == {"db", "one", "two"}
    server.reset()
    for each in (proxy, *made):
        assert server.destroy(each)
    assert server.proxies() == {}


def test_chaos_toolkit(api: Any, upstream: Any, tmp_path: Path) -> None:
    def step(kind: str, module: str, func: str, **arguments: Any) -> dict[str, Any]:
        provider = {"type": "python", "module": f"chaostoxi.{module}", "func": func, "arguments": arguments}
        return {"type": kind, "name": func, "provider": provider}

    host, _, port = upstream.address.rpartition(":")
    create = step("action", "proxy.actions", "create_proxy", proxy_name="db", listen_host="127.0.0.1",
                  upstream_host=host, upstream_port=int(port))  # fmt: skip
    exists = step("probe", "proxy.probes", "proxy_exist", proxy_name="db")
    toxics = [
        step("action", "toxic.actions", f"create_{name}_toxic", for_proxy="db", toxic_name=name, **attributes)
        for name, attributes in {
            "latency": {"latency": 20, "jitter": 1}, "bandwith_degradation": {"rate": 10},
            "slow_connection_close": {"delay": 10}, "timeout": {"timeout": 10}, "limiter": {"bytes_limit": 10},
            "slicer": {"average_size": 10, "size_variation": 1, "delay": 1},
        }.items()
    ]  # fmt: skip
    experiment = {
        "title": "toxics come and go", "description": "d",
        "configuration": {"toxiproxy_host": "127.0.0.1", "toxiproxy_port": str(api.port)},
        "method": [
            create,
            exists,
            *toxics,
            step("action", "proxy.actions", "disable_proxy", proxy_name="db"),
            step("action", "proxy.actions", "enable_proxy", proxy_name="db"),
            step("action", "toxic.actions", "delete_toxic", for_proxy="db", toxic_name="limiter"),
            step("probe", "proxy.probes", "get_proxy_attribute", proxy_name="db", attribute="toxics"),
        ],
        "rollbacks": [step("action", "proxy.actions", "reset"),
                      step("action", "proxy.actions", "delete_proxy", proxy_name="db")],
    }  # fmt: skip
    file, journal = tmp_path / "experiment.json", tmp_path / "journal.json"
    file.write_text(json.dumps(experiment))
    result = subprocess.run(
        [sys.executable, "-m", "chaostoolkit", "--no-version-check", "--no-log-file", "run",
         f"--journal-path={journal}", "--rollback-strategy=always", str(file)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(journal.read_text())
    assert told["status"] == "completed"
    assert [step["status"] for step in told["run"] + told["rollbacks"]] == ["succeeded"] * (
        len(experiment["method"]) + 2
    )
    seen = next(step["output"] for step in told["run"] if step["activity"]["name"] == "get_proxy_attribute")
    assert {toxic["name"]: toxic["attributes"] for toxic in seen} == {
        "latency": {"latency": 20, "jitter": 1}, "bandwith_degradation": {"rate": 10}, "timeout": {"timeout": 10},
        "slow_connection_close": {"delay": 10}, "slicer": {"average_size": 10, "size_variation": 1, "delay": 1},
    }  # fmt: skip
    assert api.ok("GET", "/proxies") == {}
