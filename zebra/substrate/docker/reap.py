"""Removes containers, networks and images that a session has left, by the engine's own HTTP API.

The session may have died while the engine was still at work on what it had asked for: a thing that is absent now would
be there a moment later. So a reaper takes the absent thing's place (its name, or its addresses), upon which the late
request fails, and gives that up again.

Source: Docker Engine API; its reservation of names in moby, daemon/names.go.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from zebra.errors import ConfigError
from zebra.injection.ledger import has_ended
from zebra.substrate.docker.engine import CALLS, LABEL_OWNER, LABEL_RUN, LABEL_SESSION, EngineSocket, socket_path

KINDS = ("container", "network", "image")
"""In the order in which they can go: a network is held by its containers, an image by those that are made of it."""

SESSION = re.compile(r"zebra-[0-9]+-[0-9a-f]{8}")
"""How sessions are called: by the names of their directories."""

TRIES, EVERY_S = 40, 0.05
"""How often it is looked again whether what is under way is over."""

LATE, EMPTY = 20, 10240
"""How many times as long as an import takes another one may; and the bytes of an empty archive."""

OK, CREATED, NO_CONTENT, FORBIDDEN, NOT_FOUND, CONFLICT = 200, 201, 204, 403, 404, 409


class _Entry(msgspec.Struct):
    """What an entry says at least; one that does not is left as it is."""

    name: str
    engine: str
    labels: dict[str, str]
    image: str = ""
    subnet: str = ""


def reap(entries: list[dict[str, Any]]) -> bool:
    """Remove what ledger entries name; whether none of it is left. What lacks the entry's labels is somebody else's.

    An entry holds `kind`, `name`, `labels` and `engine`, the path of the engine's socket; a container `image`, a
    network `subnet`. May be called again, and for what is gone already. An engine that does not answer has it all left.
    """
    left = 0
    with ThreadPoolExecutor(CALLS) as pool:
        for kind, remove in zip(KINDS, (_container, _network, _image), strict=True):
            of_kind = [entry for entry in entries if entry.get("kind") == kind]
            left += list(pool.map(partial(_gone, remove), of_kind)).count(False)
    return not left


def lost(known: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """What the engine holds of sessions that have ended and are not `known`, by session, as entries of a ledger.

    The labels tell: one that is missing, or not as we write it, makes a thing somebody else's, and so does an owner who
    may be alive. No engine holds nothing. Raises OSError, or http.client.HTTPException, for one that does not answer.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = urlencode({"all": "true", "filters": json.dumps({"label": [LABEL_SESSION, LABEL_RUN, LABEL_OWNER]})})
    try:
        path = socket_path()
        engine = EngineSocket(path)
        engine.connect()
    except (ConfigError, FileNotFoundError, ConnectionRefusedError):
        return found
    try:
        for kind, where in zip(KINDS, ("containers/json", "networks", "images/json"), strict=True):
            status, things = _ask(engine, "GET", f"/{where}?{wanted}")
            if status != OK:
                raise ConnectionError(f"the engine at {path} answers with status {status}")
            for thing in things:
                labels = {str(name): str(value) for name, value in (thing.get("Labels") or {}).items()}
                session = labels.get(LABEL_SESSION, "")
                if SESSION.fullmatch(session) and session not in known and has_ended(labels.get(LABEL_OWNER, "")):
                    ours = {name: labels.get(name, "") for name in (LABEL_SESSION, LABEL_RUN, LABEL_OWNER)}
                    entry = _entry(kind, thing) | {"kind": kind, "labels": ours, "engine": path}
                    found.setdefault(session, []).append(entry | {"id": f"{kind}.{entry['name']}"})
    finally:
        engine.close()
    return found


def _entry(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    """The part of a ledger's entry that differs by kind, from what the engine says of a thing."""
    if kind == "container":
        return {"name": thing["Names"][0].removeprefix("/"), "image": thing["Image"]}
    if kind == "network":
        pools = thing["IPAM"]["Config"] or [{"Subnet": ""}]
        return {"name": thing["Name"], "subnet": pools[0]["Subnet"]}
    return {"name": (thing.get("RepoTags") or [thing["Id"]])[0]}


def _gone(remove: Any, entry: dict[str, Any]) -> bool:
    try:
        msgspec.convert(entry, _Entry)
        with _engine(entry) as engine:
            for _ in range(TRIES):
                if remove(engine, entry):
                    return True
                time.sleep(EVERY_S)
    except (OSError, http.client.HTTPException, ValueError, msgspec.ValidationError):
        pass
    return False


@contextmanager
def _engine(entry: dict[str, Any]) -> Iterator[EngineSocket]:
    engine = EngineSocket(str(entry["engine"]))
    try:
        yield engine
    finally:
        engine.close()


def _ours(labels: Any, entry: dict[str, Any]) -> bool:
    """Whether something has all labels of an entry, and among them that of a session."""
    mine: dict[str, str] = entry["labels"]
    return LABEL_SESSION in mine and isinstance(labels, dict) and labels.items() >= mine.items()


def _ask(engine: EngineSocket, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    return engine.ask(method, path, b"" if body is None else json.dumps(body).encode())


def _container(engine: EngineSocket, entry: dict[str, Any]) -> bool:
    """Remove a container; False while it is not gone for certain."""
    name = quote(entry["name"], safe="")
    status, found = _ask(engine, "GET", f"/containers/{name}/json")
    if status == OK:
        if not _ours(found["Config"]["Labels"], entry):
            return True
        return _ask(engine, "DELETE", f"/containers/{found['Id']}?force=true&v=true")[0] in (NO_CONTENT, NOT_FOUND)
    if status != NOT_FOUND:
        return False
    hold = {"Image": entry["image"], "Labels": entry["labels"], "Cmd": ["-"]}
    status, held = _ask(engine, "POST", f"/containers/create?name={name}", hold)
    if status == NOT_FOUND:  # the image is not there, for nobody
        return True
    return status == CREATED and _ask(engine, "DELETE", f"/containers/{held['Id']}")[0] in (NO_CONTENT, NOT_FOUND)


def _network(engine: EngineSocket, entry: dict[str, Any]) -> bool:
    """Remove a network; False while it is not gone for certain."""
    status, found = _ask(engine, "GET", f"/networks/{quote(entry['name'], safe='')}")
    if status == OK:
        if not _ours(found["Labels"], entry):
            return True
        return _ask(engine, "DELETE", f"/networks/{found['Id']}")[0] in (NO_CONTENT, NOT_FOUND)
    if status != NOT_FOUND:
        return False
    hold = {"Name": entry["name"], "CheckDuplicate": True, "Labels": entry["labels"],
            "IPAM": {"Config": [{"Subnet": entry["subnet"]}]}}  # fmt: skip
    status, held = _ask(engine, "POST", "/networks/create", hold)
    if status == CREATED:
        return _ask(engine, "DELETE", f"/networks/{held['Id']}")[0] in (NO_CONTENT, NOT_FOUND)
    return status in (FORBIDDEN, CONFLICT) and _taken_by_another(engine, entry)


def _taken_by_another(engine: EngineSocket, entry: dict[str, Any]) -> bool:
    """Whether a network that is not the entry's has its addresses, so that the entry's cannot come into being."""
    status, networks = _ask(engine, "GET", "/networks")
    if status != OK:
        return False
    others = [each for each in networks if not _ours(each["Labels"], entry)]
    return any(pool["Subnet"] == entry["subnet"] for each in others for pool in each["IPAM"]["Config"] or ())


def _image(engine: EngineSocket, entry: dict[str, Any]) -> bool:
    """Remove an image; False while it is not gone for certain.

    Nobody else can hold a place for it, and an import that the session has asked for can end after one that was begun
    later. So where the image is not there, one is imported as it would have been, and the first one is looked for
    `LATE` times as long as that took.
    """
    wanted = [f"{name}={value}" for name, value in entry["labels"].items()]
    if LABEL_SESSION not in entry["labels"]:
        return True
    images = f"/images/json?{urlencode({'filters': json.dumps({'label': wanted})})}"
    status, found = _ask(engine, "GET", images)
    if status == OK and not found:  # under another name: this one may be somebody else's
        began = time.monotonic()
        repository, _, tag = entry["name"].partition(":")
        changes = [("changes", f"LABEL {each}") for each in wanted]
        query = urlencode([("fromSrc", "-"), ("repo", repository), ("tag", f"{tag}-late"), *changes])
        engine.ask("POST", f"/images/create?{query}", bytes(EMPTY), "application/x-tar")
        until = began + LATE * (time.monotonic() - began)
        while len(found) < 2 and time.monotonic() < until:
            status, found = _ask(engine, "GET", images)
            time.sleep(EVERY_S)
    for image in found:
        _ask(engine, "DELETE", f"/images/{image['Id']}?force=true")
    return status == OK and not _ask(engine, "GET", images)[1]
