"""Runs in MLflow, whose trouble never costs work: what it has not got is kept, and sent later.

A run's records go into a journal first and then to the store, at once while it answers. When it does not,
that is said in one line, nothing waits for it again, and what is unsent stays for ``shunter track push``.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from shunter.errors import ShunterError, ShunterWarning, one_line
from shunter.scratch import outside
from shunter.sinks import markdown, store_key, visible
from shunter.tracking.journal import UNSENT, Journal
from shunter.tracking.monitoring import is_monitored, start_monitor, stop_monitor
from shunter.tracking.sending import send
from shunter.tracking.store import StoreError, open_store, said_uri, store_uri

if TYPE_CHECKING:
    from shunter.tracking.lineage import Input

__all__ = ["Tracker", "check_store", "now_ms", "tracking"]

NOTE = "mlflow.note.content"
"""Tag of the description that MLflow's pages show of a run."""

EXPERIMENT = "shunter"

AGAIN_S = 30.0
"""After how long a store that did not answer is asked again; twice as long each time, but at a run's end."""

_LONGEST, _LONGEST_NAME = 6000, 250
"""Characters of a parameter and of a name that MLflow takes."""

_TICKS = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BEGUN_MS = (time.time_ns() - time.clock_gettime_ns(_TICKS)) // 1_000_000
"""What the clock said, as this process began, when that of ``_TICKS`` was at zero."""


class Link:
    """The way to a store, as this process has found it.

    Attributes:
        uri: The store.
        why: Why it cannot be used; empty if it can.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.why = uri, ""
        self._client: Any = None
        self._failed_s, self._failures = -math.inf, 0
        self._told: set[Path] = set()

    def open(self, *, last: bool = False) -> Any:
        """MLflow's client; None if the store cannot be used, which is not asked of it again for a while.

        Args:
            last: Whether a run ends, for which nothing is sent later.
        """
        waits_s = AGAIN_S if last else AGAIN_S * 2 ** min(self._failures - 1, 6)
        if self._client is None and time.monotonic() - self._failed_s >= waits_s:
            try:
                self._client, self.why = open_store(self.uri), ""
            except StoreError as error:
                self.fail(error)
        return self._client

    def fail(self, error: BaseException) -> None:
        """Takes the store for unusable."""
        self.why, self._client = str(error), None
        self._failed_s, self._failures = time.monotonic(), self._failures + 1

    def tell(self, unsent: Path) -> None:
        """Says once where what is unsent is kept, and why."""
        if unsent not in self._told:
            self._told.add(unsent)
            kept = f"work goes on; its runs are kept in {unsent}, and `{_push(unsent)}` sends them"
            warnings.warn(one_line(f"{self.why.rstrip('.')}: {kept}"), ShunterWarning, stacklevel=3)


def _push(unsent: Path) -> str:
    """The command that sends what is kept there."""
    folder = shlex.quote(str(unsent.parent))
    return "shunter track push" if folder == "." else f"shunter track push {folder}"


_LINKS: dict[str, Link] = {}


def check_store(folder: str | os.PathLike[str] = ".") -> None:
    """Says in one line if runs cannot be logged to MLflow now: to be called before work whose run is logged.

    Args:
        folder: As ``tracking`` has it.
    """
    link = _link(folder)
    if link.open() is None:
        link.tell(Path(folder) / UNSENT)


def _link(folder: str | os.PathLike[str]) -> Link:
    uri = store_uri(folder)
    return _LINKS.setdefault(uri, Link(uri))


class Tracker:
    """One MLflow run; several can be open at once. None of its methods fails because of MLflow.

    Attributes:
        key: Which run it is, in whatever store.
        uri: The store.
        run_id: MLflow's id of the run; empty while the store has nothing of it.
        sent: Whether the store has all of it so far.
        status: What it is when it ends: ``FINISHED``, ``FAILED`` or ``KILLED``.
    """

    def __init__(self, link: Link, unsent: Path, header: dict[str, Any]) -> None:
        self._link, self._unsent, self._header = link, unsent, header
        self._journal: Journal | None = None
        self._monitor: Any = None
        self.key, self.uri, self.run_id = str(header["key"]), link.uri, ""
        self.sent, self.status = True, "FINISHED"

    @property
    def words(self) -> str:
        """Where the run is, for people."""
        return f"MLflow: {said_uri(self.uri)} run {self.run_id}" if self.sent else f"MLflow: {self._waiting}"

    @property
    def pages(self) -> str:
        """How the pages of the store that has the run are looked at, for people."""
        if not self.sent:
            return self._waiting
        place = said_uri(self.uri)
        is_served = place.startswith(("http://", "https://"))
        return place if is_served else f"mlflow ui --backend-store-uri {shlex.quote(place)}"

    @property
    def _waiting(self) -> str:
        return f"not sent yet, kept in {self._unsent} ({_push(self._unsent)})"

    def begin(self) -> None:
        """Begins the run in MLflow now; otherwise it begins with what is logged first."""
        self._keep()
        if self.run_id and self._monitor is None:
            self._monitor = start_monitor(self.run_id, self.uri)

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs parameters; nested mappings become dotted names."""
        found = {store_key(name): visible(str(value))[:_LONGEST] for name, value in _flat(values)}
        self._keep({"kind": "params", "params": found})

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags."""
        self._keep({"kind": "tags", "tags": {name: visible(str(text)) for name, text in values.items()}})

    def note(self, lines: Iterable[str]) -> None:
        """Sets the description that MLflow's pages show, which they take for Markdown."""
        self.tags({NOTE: "  \n".join(map(markdown, lines))})

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Logs the finite numbers among the values; nested mappings become paths."""
        at_ms = now_ms()
        numbers = [
            (store_key(name), float(value), at_ms, step)
            for name, value in _flat(values, "/")
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ]
        self._keep({"kind": "metrics", "metrics": numbers})

    def inputs(self, made_of: Sequence[Input]) -> None:
        """Logs what the run is made of, as datasets of MLflow's."""
        self._keep({"kind": "inputs", "inputs": [_as_record(one) for one in made_of]})

    def text(self, content: str, name: str) -> None:
        """Logs a text as a file of that name."""
        self._keep({"kind": "file"}, Path(name), content)

    def artifact(self, path: str | os.PathLike[str]) -> None:
        """Logs a file, or a folder under its name."""
        self._keep({"kind": "file"}, Path(path))

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """Logs a table, as ``NAME.json``, that MLflow's pages show beside those of other runs."""
        self._keep({"kind": "table"}, Path(name), frame.to_json(orient="split", index=False))

    def policy(self, path: Path, name: str, why: str) -> None:
        """Has a policy registered as soon as the store has the run, as a version on which nothing is decided.

        Args:
            path: Policy file.
            name: Of the registered model.
            why: What is known of it, in words.
        """
        self._keep({"kind": "policy", "name": name, "why": why}, path)

    @contextmanager
    def child(self, name: str) -> Iterator[Tracker]:
        """A run that is part of this one, of the same kind, begun when this one was."""
        self.begin()
        header = {**self._header, "key": uuid.uuid4().hex, "name": _run_name(name), "parent": self.key}
        with _ended(Tracker(self._link, self._unsent, header)) as child:
            yield child

    def client(self) -> Any:
        """MLflow's client if the store has all of the run so far, else None; asked as a run's end is."""
        self._link.open(last=True)
        self.begin()
        return self._link.open() if self.sent and self.run_id else None

    def fail(self, error: StoreError) -> None:
        """Takes the store for unusable: what follows is kept."""
        self._link.fail(error)

    def close(self) -> None:
        """Ends the run, if anything was logged; what is unsent is tried once more, and kept."""
        if self._journal is None:
            return
        stop_monitor(self._monitor, self.uri)
        try:
            self._keep({"kind": "end", "status": self.status, "at_ms": now_ms()})
        except KeyboardInterrupt:
            self._link.fail(StoreError("MLflow", "be given time to take a run", "Ctrl-C"))
        if self._journal is None:
            return
        if self.sent:
            self._journal.remove()
            self._journal = None
            self._end_abandoned()
        else:
            self._journal.close()
            self._link.tell(self._unsent)

    def _end_abandoned(self) -> None:
        """Has the runs of processes that were killed here end too, so that nothing of them is left."""
        for journal in Journal.abandoned(self._unsent):
            client, begun = self._link.open(), journal.sent(self.uri)[0] is not None
            was_killed = begun or not journal.ended  # what the store never took waits for track push
            try:
                if client is not None and was_killed:
                    journal.end_if_killed()
                    send(journal, client, self.uri)
                    journal.remove()
                    continue
            except (OSError, ShunterError):  # shunter track push tells more
                pass
            journal.close()

    def _begun(self) -> Journal:
        try:
            for journal in Journal.abandoned(self._unsent):  # of the same run, before it was gone on with
                if journal.header["key"] == self.key:
                    return journal
                journal.close()
            return Journal.begin(self._unsent, self._header)
        except OSError:  # a folder that is read-only, say
            self._unsent = Path(tempfile.mkdtemp(prefix=f"{UNSENT}-", dir=outside())) / UNSENT
            return Journal.begin(self._unsent, self._header)

    def _keep(
        self, record: Mapping[str, Any] | None = None, path: Path | None = None, content: str | None = None
    ) -> None:
        """Adds a record with its file to the journal, and sends what is unsent if the store answers."""
        self.sent = False
        try:
            if self._journal is None:
                self._journal = self._begun()
            if record is not None:
                name = {} if path is None else {"file": self._journal.take(path, content)}
                self._journal.append({**record, **name})
        except (OSError, ShunterError) as error:  # a full disk, say: MLflow must not be what ends the work
            self._link.why = f"{self._unsent}: {getattr(error, 'strerror', None) or error}."
            self._link.tell(self._unsent)
            return
        client = self._link.open(last=record is not None and record["kind"] == "end")
        if client is None:
            return
        try:
            self.run_id = send(self._journal, client, self.uri)
            self.sent = True
        except StoreError as error:
            self._link.fail(error)
            self._link.tell(self._unsent)


@contextmanager
def tracking(
    kind: str,
    name: str,
    *,
    folder: str | os.PathLike[str] = ".",
    key: str | None = None,
    parent: Tracker | None = None,
    begun_ms: int | None = None,
) -> Iterator[Tracker]:
    """Opens an MLflow run around some work.

    The run begins when this is called, and is in MLflow from its first record on.
    If the store cannot be used that is said in one line, and the work goes on.

    Args:
        kind: profile, fit, train or eval; a tag.
        name: Name of the run.
        folder: Where ``mlflow.db``, ``mlartifacts`` and ``mlflow-unsent`` are made; the store is elsewhere if
            ``MLFLOW_TRACKING_URI`` is set.
        key: Of a run that is gone on with if there is one; None: a new one.
        parent: Run that this one is part of.
        begun_ms: When the work began, from ``now_ms``, if that was before.
    """
    check_store(folder)
    if parent is not None:
        parent.begin()
    header = {
        "key": key or uuid.uuid4().hex,
        "kind": kind,
        "name": _run_name(name),
        "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT,
        "start_ms": begun_ms or now_ms(),
        "tags": _tags(kind),
        "parent": None if parent is None else parent.key,
    }
    with _ended(Tracker(_link(folder), Path(folder) / UNSENT, header)) as tracker:
        if is_monitored():  # while the work goes on, so the run cannot begin after it
            tracker.begin()
        yield tracker


@contextmanager
def _ended(tracker: Tracker) -> Iterator[Tracker]:
    """Ends a run as the work ended that it is of."""
    try:
        yield tracker
    except BaseException as error:
        tracker.status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        tracker.close()


def _run_name(text: str) -> str:
    """A name of a run as MLflow takes it."""
    return visible(text)[:_LONGEST_NAME]


def _as_record(made_of: Input) -> dict[str, Any]:
    """An input whose texts any store takes: names of files may be no text."""
    texts = {"name": visible(made_of.name)[:_LONGEST_NAME], "source": visible(made_of.source)}
    return {**made_of._asdict(), **texts}


def now_ms() -> int:
    """The time as MLflow has it; within a process it never goes back, whatever is done to the clock."""
    return _BEGUN_MS + time.clock_gettime_ns(_TICKS) // 1_000_000


def _tags(kind: str) -> dict[str, str]:
    """Tags of whoever runs it, as MLflow itself sets them."""
    found = {"shunter.kind": kind}
    try:
        from mlflow.tracking.context.registry import resolve_tags

        return {name: str(text) for name, text in resolve_tags(found).items()}
    except Exception:  # a plug-in of MLflow's, say
        return found


def _flat(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{name}{separator}")
        else:
            yield name, value
