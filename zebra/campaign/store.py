"""The store of a campaign: the result of every trial, in SQLite, as soon as it arrives.

A campaign is a deterministic function of its trials' results, wall times among them. So a campaign that was killed is
resumed by running it again while the store answers what ran before: it takes the same course to where it was, and goes
on. If it took another course all the same, the trials that it asks for are run; none is counted twice, and those that
it no longer asks for are named as `unused`.

A commit outlives the process (WAL, `synchronous = NORMAL`); when the machine loses power the last ones may be lost, and
their trials run again.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from zebra.campaign.budget import Budget
from zebra.campaign.result import CampaignResult
from zebra.campaign.trial import Executor, Purpose, Trial, TrialResult
from zebra.errors import ConfigError

VERSION = 1
"""`user_version` of the database: of its tables, and of what is packed in them."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE trials (
    spec BLOB NOT NULL,        -- the packed RunSpec: test, values, substrate, seed and whatever else goes into a run
    code TEXT NOT NULL,        -- the digest of the code that the test runs
    purpose TEXT NOT NULL,
    history INTEGER NOT NULL,  -- whether its events were kept in a file
    result BLOB NOT NULL,
    earlier INTEGER NOT NULL,  -- whether a campaign before this one made it
    PRIMARY KEY (spec, code)
) WITHOUT ROWID;
CREATE TABLE evidence (parameter TEXT PRIMARY KEY, history BLOB NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")
_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign's course depends on. `code` and `tests` are digests; `look_ahead` is how many trials it has run
    at a time for a cluster, 0 if the target says; `reach` names rules, rolling changes and what is slow."""

    target: str
    substrate: str
    seed: int
    params: str
    tests: str
    code: str
    reach: str = ""
    incremental: bool = False
    look_ahead: int = 0


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished campaign leaves to the next: its verdicts, and what they rest on.

    `tests` and `parameters` are digests by name: of a test's code, of a parameter's declaration; `defaults` are shown
    as people write them. `tried` names for each parameter the tests that had a case of it.
    """

    result: CampaignResult
    tests: dict[str, str]
    parameters: dict[str, str]
    defaults: dict[str, str]
    tried: dict[str, list[str]]


class Store:
    """One campaign's store at `path`, made there unless it exists. Raises ConfigError for a file that is no store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        new = not path.exists() or not path.stat().st_size
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0 and (new or not self._database.execute("SELECT * FROM sqlite_master").fetchall()):
                self._database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
                version = VERSION
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{path}: not a campaign's store ({error})") from None
        if version != VERSION:
            raise ConfigError(f"{path}: of version {version}, this zebra reads {VERSION}: begin the campaign anew")

    def close(self) -> None:
        self._database.close()

    # -- what campaign it is -----------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity | None:
        """Of the campaign that is stored here; None before there is one."""
        return self._meta("identity", Identity)

    @property
    def finished(self) -> bool:
        return self._meta("finished", bool) is True

    @property
    def basis(self) -> Basis | None:
        """What the last campaign that was finished here left; None if none was."""
        return self._meta("basis", Basis)

    def begin(self, identity: Identity) -> None:
        """A campaign begins; the trials that are here become those of an earlier one."""
        with self._transaction():
            self._database.execute("UPDATE trials SET earlier = 1")
            self._set_meta("identity", identity)
            self._set_meta("finished", False)

    def finish(self, basis: Basis, evidence: Mapping[str, bytes]) -> None:
        """A campaign has all its verdicts; `evidence` is the history of a failing run by parameter."""
        with self._transaction():
            self._set_meta("basis", basis)
            self._set_meta("finished", True)
            self._database.execute("DELETE FROM evidence")
            rows = [(name, zlib.compress(history)) for name, history in evidence.items()]
            self._database.executemany("INSERT INTO evidence VALUES (?, ?)", rows)

    def evidence(self) -> dict[str, bytes]:
        """By parameter the history of a run that shows it, of the campaign that was finished last."""
        rows = self._database.execute("SELECT parameter, history FROM evidence ORDER BY parameter")
        return {name: zlib.decompress(history) for name, history in rows}

    # -- trials ------------------------------------------------------------------------------------------------

    def trials(self, earlier: bool = True) -> int:
        """How many results are stored; without `earlier` those of this campaign only."""
        query = "SELECT count(*) FROM trials WHERE earlier <= ?"
        (count,) = self._database.execute(query, (earlier,)).fetchone()
        return int(count)

    def kinds(self, codes: Sequence[str]) -> set[str]:
        """The event kinds that occurred in any trial on this code."""
        marks = ", ".join("?" * len(codes))
        rows = self._database.execute(f"SELECT result FROM trials WHERE code IN ({marks})", tuple(codes))
        return {kind for (result,) in rows for kind in _unpack(result, type=TrialResult).kinds}

    def get(self, trial: Trial, code: str) -> tuple[TrialResult, bool] | None:
        """The result of a trial that ran before on this code, if all that is wanted of it is there, and whether it is
        of an earlier campaign."""
        query = "SELECT purpose, history, result, earlier FROM trials WHERE spec = ? AND code = ?"
        row = self._database.execute(query, (_pack(trial.spec), code)).fetchone()
        if row is None or (trial.record_reads and row[0] != "prerun"):
            return None
        if trial.history and row[1] and not Path(trial.history).exists():
            return None
        return _unpack(row[2], type=TrialResult), bool(row[3])

    def put(self, trial: Trial, code: str, result: TrialResult) -> None:
        """Keep a result; it is durable when this returns. Raises ConfigError when it cannot be written."""
        kept = bool(trial.history) and Path(trial.history).exists()
        row = _pack(trial.spec), code, trial.purpose, kept, _pack(result)
        with self._writing():
            self._database.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, 0)", row)

    def forget(self, codes: Sequence[str]) -> None:
        """Drop the results of all code but this."""
        marks = ", ".join("?" * len(codes))
        self._database.execute(f"DELETE FROM trials WHERE code NOT IN ({marks})", tuple(codes))

    def _meta(self, name: str, kind: type[T]) -> T | None:
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        try:
            return None if row is None else msgspec.json.decode(row[0], type=kind)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self.path}: its {name} is damaged ({error}): begin the campaign anew") from None

    def _set_meta(self, name: str, value: object) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, msgspec.json.encode(value)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing(), self._database:  # commits, or rolls back
            self._database.execute("BEGIN")
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(f"{self.path}: cannot be written ({error}), --zebra-resume goes on once it can") from None


class Recorded:
    """A Runner that answers from a store what ran before, and stores what it has an executor carry out.

    `codes` are the digests of the tests' code. `arrived` is told of each result whether it was stored. `executed`
    counts the trials carried out here, by purpose, `answered` those that the store had, and `earlier` those of an
    earlier campaign among them.
    """

    def __init__(self, store: Store, executor: Executor, codes: Mapping[str, str], budget: Budget,
                 arrived: Callable[[bool], None] = lambda _: None) -> None:  # fmt: skip
        self._store, self._executor, self._codes, self._budget = store, executor, codes, budget
        self._arrived = arrived
        self.executed: Counter[Purpose] = Counter()
        self.answered: Counter[Purpose] = Counter()
        self.earlier: Counter[Purpose] = Counter()

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """See `zebra.campaign.trial.Runner`."""
        found: list[TrialResult | None] = [None] * len(trials)
        for number, trial in enumerate(trials):
            if (stored := self._store.get(trial, self._codes[trial.spec.test])) is not None:
                found[number] = stored[0]
                self.answered[trial.purpose] += 1
                self.earlier[trial.purpose] += stored[1]
                self._arrived(True)
        missing = [number for number, result in enumerate(found) if result is None]
        allowed = missing[: self._budget.allowed(len(missing))]
        for trial in (trials[number] for number in allowed if trials[number].history):
            Path(trial.history).unlink(missing_ok=True)  # of a trial that was in flight when a campaign was killed
        if allowed:
            batch = [trials[number] for number in allowed]
            for number, result in self._executor.results(batch, self._budget.until):
                self._store.put(batch[number], self._codes[batch[number].spec.test], result)
                found[allowed[number]] = result
                self._budget.spend()
                self.executed[batch[number].purpose] += 1
                self._arrived(False)
        results = [result for result in found if result is not None]
        if len(results) < len(trials):
            raise self._budget.spent()
        return results
