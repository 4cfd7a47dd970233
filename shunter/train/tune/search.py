"""Searches of parameters by Optuna: trials in rounds, resumable, here or on a cluster with the same result.

What a round draws, and whom it gives up, depends on the rounds before it only. So it does not matter in which
order its trials end, nor how many run at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from shunter.agents.parameters import Choice, Space, rounded
from shunter.errors import BrokenFileError, InputError, ShunterError
from shunter.files import unwritable
from shunter.jobs import Job, Runner, Work
from shunter.outputs import sole_writer
from shunter.reading import first_line, reading

if TYPE_CHECKING:
    import optuna

__all__ = ["OnTrial", "Tuned"]

OnTrial = Callable[[str, int, float], None]
"""Called with the search's name, its trials done and its best score so far."""


@dataclass(frozen=True)
class Tuned:
    """What came of a search.

    Attributes:
        policy: The best parameters as text; those of a heuristic as ``make_policy`` reads them.
        score: The lowest score that a trial reached.
        default_score: The score of the default parameters.
        trials: One row per trial: number, policy, score (missing if pruned), state, pairs (values that it was
            judged on).
        parameters: The best parameters.
    """

    policy: str
    score: float
    default_score: float
    trials: pd.DataFrame
    parameters: dict[str, Any]


@dataclass(frozen=True)
class ParameterSearch:
    """What is searched, and how.

    Attributes:
        name: Name of the study in the storage.
        space: Space of the parameters; if empty, the defaults are only scored.
        defaults: Default values of the parameters, by name.
        make: Turns parameters into their text and what the work is given.
        digest: Hash of all else that a score depends on: two searches with the same one can go on from each
            other.
        pruner: Gives up trials; see ``optuna.pruners``.
        round: Number of trials that are drawn together, and so can run at once; the defaults are a round by
            themselves.
    """

    name: str
    space: Space
    defaults: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], tuple[str, Any]]
    digest: str
    pruner: Callable[[], Any]
    round: int


def search_all(
    searches: Sequence[ParameterSearch],
    trials: int,
    work: Work,
    shared: Any,
    *,
    runner: Runner | None = None,
    storage: str | Path | None = None,
    on_trial: OnTrial | None = None,
) -> dict[str, Tuned]:
    """Searches side by side, each with the same budget; the first trial is the defaults.

    Args:
        searches: Searches with distinct names.
        trials: Number of trials of each search, finished and pruned ones, those found in the storage
            included.
        work: Scores one trial. It reports (step, value) pairs and gives up, returning None, where the answer
            is true; else it returns the logarithm of the score.
        shared: See ``Work``.
        runner: Where trials run; by default here.
        storage: A journal file that a search killed at any time goes on from; None: in memory.
        on_trial: Called with the search's name, its trials done and its best score so far.

    Raises:
        InputError: The storage holds a search over something else, or another command writes it.
        BrokenFileError: The storage is no journal.
        ShunterError: Optuna is not installed, a trial failed, or the storage cannot be written.
    """
    held = nullcontext() if storage is None else sole_writer("--storage", Path(storage))
    with held:
        progress = [_Progress(search, trials, storage, on_trial) for search in searches]
        while jobs := [job for one in progress for job in one.next_round()]:
            (runner or Runner()).run(work, shared, jobs)
        return {one.search.name: one.tuned() for one in progress}


class _Progress:
    """One search: the journal holds every trial that ended, a study in memory what a round knows of them.

    A trial comes into the journal once, when it has ended, with its place: its round, and which of the round
    it was. A round is drawn from those before it, so that one that was cut off is drawn again as it was, and
    what it lacks is tried.
    """

    def __init__(
        self, search: ParameterSearch, trials: int, storage: str | Path | None, on_trial: OnTrial | None
    ) -> None:
        self.search, self.storage, self.on_trial = search, storage, on_trial
        self.study = _open(search, storage)
        self.budget = trials if search.space else 1
        self.round = 0

    def next_round(self) -> list[_Trial]:
        """The jobs of the next round; none if the budget is spent."""
        while len(_done(self.study)) < self.budget:
            known = self._known()
            if jobs := [trial for trial in self._lacking(known) if not self._was_tried(trial)]:
                return jobs
            self.round += 1
        return []

    def _known(self) -> optuna.Study:
        """A study of the rounds before this one; trials of older journals, without a place, count as such."""
        import optuna

        before = [trial for trial in _done(self.study) if _place(trial)[0] < self.round]
        sampler = optuna.samplers.TPESampler(seed=len(before))
        known = optuna.create_study(sampler=sampler, pruner=_quietly(self.search.pruner))
        known.add_trials(before)
        return known

    def _lacking(self, known: optuna.Study) -> list[_Trial]:
        """The trials of this round that have not ended, as many as the budget has room for."""
        first = sum(_place(trial)[0] < self.round for trial in _done(self.study))
        ended = {_place(trial) for trial in _done(self.study)}
        drawn = [self._draw(known, number, params) for number, params in enumerate(self._asked(known))]
        return [trial for trial in drawn[: self.budget - first] if trial.place not in ended]

    def _asked(self, known: optuna.Study) -> list[dict[str, Any] | None]:
        """The parameters of a round; None: to be drawn."""
        defaults = dict(self.search.defaults)
        if not any(trial.params == defaults for trial in known.trials):
            return [defaults]
        return [None] * self.search.round

    def _draw(self, known: optuna.Study, number: int, params: dict[str, Any] | None) -> _Trial:
        if params is not None:
            known.enqueue_trial(params)
        shadow = known.ask(_distributions(self.search.space))
        text, task = self.search.make(_rounded(shadow.params))
        return _Trial(self, shadow, (self.round, number), text, task)

    def _was_tried(self, trial: _Trial) -> bool:
        """Whether an earlier trial had the same parameters: a space of a few words is soon exhausted."""
        for done in _done(self.study):
            if done.user_attrs["policy"] == trial.text:
                trial.on_message(list(done.intermediate_values.items()))
                trial.done(done.value if done.state.name == "COMPLETE" else None)
                return True
        return False

    def keep(self, trial: _Trial, value: float | None) -> None:
        """Writes down how a trial ended, in one line of the journal; None: given up."""
        import optuna

        state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
        last = trial.steps[max(trial.steps)] if trial.steps else None
        ended = optuna.trial.create_trial(
            state=state,
            value=last if value is None else value,
            params=trial.shadow.params,
            distributions=trial.shadow.distributions,
            user_attrs={"policy": trial.text, "place": list(trial.place)},
            intermediate_values=trial.steps,
        )
        try:
            self.study.add_trial(ended)
        except OSError as error:
            path = Path(str(self.storage))
            _cut_torn_line(path)
            raise unwritable(path, error, "make room, then the same command goes on from it") from error
        if self.on_trial is not None:
            self.on_trial(self.search.name, len(_done(self.study)), math.exp(self.study.best_value))

    def tuned(self) -> Tuned:
        """What came of the search."""
        default, _ = self.search.make(self.search.defaults)
        complete = [trial for trial in _done(self.study) if trial.state.name == "COMPLETE"]
        best = min(complete, key=lambda trial: trial.value)
        values = {trial.user_attrs["policy"]: trial.value for trial in complete}
        return Tuned(
            policy=best.user_attrs["policy"],
            score=math.exp(best.value),
            default_score=math.exp(values[default]),
            trials=_table(self.study),
            parameters=_rounded(best.params),
        )


def _rounded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rounded(v) if isinstance(v, float) else v for name, v in parameters.items()}


class _Trial(Job):
    """A trial under way, and its shadow in what the round knows.

    Attributes:
        shadow: Told what is reported, so that the pruner can judge.
        place: Round, and which of the round it is.
        text: Its parameters in words.
        steps: What was reported, by step.
    """

    def __init__(
        self, progress: _Progress, shadow: optuna.Trial, place: tuple[int, int], text: str, task: Any
    ) -> None:
        self.progress, self.shadow, self.place, self.text = progress, shadow, place, text
        self.steps: dict[int, float] = {}
        self._task = task

    @property
    def name(self) -> str:
        return self.text

    def task(self) -> Any:
        return self._task

    def on_message(self, message: Sequence[tuple[int, float]]) -> bool:
        for step, value in message:
            if step not in self.steps:  # it was said before, if a worker was lost
                self.steps[step] = value
                self.shadow.report(value, step)
        return bool(self.shadow.should_prune())

    def done(self, value: float | None) -> None:
        self.progress.keep(self, value)


def _distributions(space: Space) -> dict[str, Any]:
    from optuna import distributions as known

    found: dict[str, Any] = {}
    for name, one in space.items():
        if isinstance(one, Choice):
            found[name] = known.CategoricalDistribution(one.options)
        elif one.whole:
            found[name] = known.IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            found[name] = known.FloatDistribution(one.low, one.high, log=one.log)
    return found


def _open(search: ParameterSearch, storage: str | Path | None) -> optuna.Study:
    """The study of that name in the storage, begun or gone on with."""
    try:
        import optuna
    except ImportError as error:
        raise ShunterError(f"tuning needs the extra: pip install 'shunter[tune]' ({error})") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study: optuna.Study = _quietly(
            lambda: optuna.create_study(
                storage=_journal(storage), study_name=search.name, load_if_exists=True
            )
        )
    except ShunterError:
        raise
    except OSError as error:
        raise unwritable(str(storage), error) from error
    except Exception as error:  # whatever Optuna makes of lines that are not its own
        raise BrokenFileError(storage, f"no Optuna journal: {first_line(error)}") from None
    if study.user_attrs.get("task", search.digest) != search.digest:
        rule = "hold a search over the same worlds, seeds and features (or be a new file)"
        raise InputError("--storage", rule, str(storage))
    study.set_user_attr("task", search.digest)
    return study


def _quietly(make: Callable[[], Any]) -> Any:
    """What it makes, without Optuna's remarks on what is experimental."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make()


def _journal(storage: str | Path | None) -> Any:
    if storage is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    backend = JournalFileBackend(str(path), _NoLock())  # type: ignore[arg-type]  # their base class is private
    return JournalStorage(backend)


class _NoLock:
    """In place of Optuna's lock, which a killed search leaves behind: who searches holds one of ours."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_torn_line(path: Path) -> None:
    """Removes the end of a journal for which there was no time or no room; Optuna would append to it."""
    if not path.exists():
        return
    with reading(path), path.open("r+b") as file:
        content = file.read()
        if content.startswith(b'{"op_code"') and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _done(study: optuna.Study) -> list[Any]:
    """Trials that count, in the order in which they were drawn: finished and pruned ones."""
    ended = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    return sorted(ended, key=_place)


def _place(trial: Any) -> tuple[int, int]:
    """Round and number of a trial; those of journals that do not say are before all others."""
    return tuple(trial.user_attrs.get("place", (-1, trial.number)))


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = [
        {
            "number": number,
            "policy": trial.user_attrs["policy"],
            "score": math.exp(trial.value) if trial.state.name == "COMPLETE" else math.nan,
            "state": trial.state.name.lower(),
            "pairs": len(trial.intermediate_values),
        }
        for number, trial in enumerate(_done(study))
    ]
    return pd.DataFrame(rows)
