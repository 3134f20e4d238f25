"""Trials that are drawn at random, and end early where they are below the median: by Optuna."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_itm.errors import UserError
from jax_itm.storage import json_lines
from jax_itm.study.plan import Search


class Drawn:
    """The trials of one row.

    Values depend on the number of a trial alone, so that a study which is started again goes on with the
    same, and rows that search the same fields have the same trials.

    Args:
        search: of the row.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, search: Search):
        try:
            import optuna
        except ImportError as error:
            raise UserError("study: a Search needs Optuna: pip install -e .[study]") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        fields = {name: _distribution(values) for name, values in search.fields.items()}
        median = optuna.pruners.MedianPruner(search.never_pruned)
        pruner = median if search.prune else optuna.pruners.NopPruner()
        self._study = optuna.create_study(pruner=pruner, direction="maximize")
        self._trials = []
        for number in range(search.count):
            self._study.sampler = optuna.samplers.RandomSampler(seed=number)
            self._trials.append(self._study.ask(fields))
        self._reported: list[set[int]] = [set() for _ in self._trials]

    def fields(self, trial: int) -> dict[str, Any]:
        """The fields of a trial and their values."""
        return dict(self._trials[trial].params)

    def is_hopeless(self, trial: int, metrics: Path) -> bool:
        """Whether a run's best validation is below the median of the ended trials' at the same step.

        Args:
            trial: its number.
            metrics: the run's metrics.jsonl.
        """
        for step, rsum in validations(metrics).items():
            if step not in self._reported[trial]:  # Optuna warns of a second report
                self._reported[trial].add(step)
                self._trials[trial].report(rsum, step)
        return bool(self._reported[trial] and self._trials[trial].should_prune())

    def end(self, trial: int, metrics: Path, rsum: float, pruned: bool) -> None:
        """Notes a trial's result."""
        import optuna

        self.is_hopeless(trial, metrics)
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        self._study.tell(self._trials[trial], None if pruned else rsum, state=state)


def _distribution(values: Any) -> Any:
    """A pair of numbers is a range on a log scale; a list has the values themselves."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return (
        FloatDistribution(*values, log=True) if isinstance(values, tuple) else CategoricalDistribution(values)
    )


def validations(metrics: Path) -> Mapping[int, float]:
    """The rSum of each validation in a run's metrics.jsonl, by step; none where there is no file yet."""
    return {line["step"]: line["val/rsum"] for line in json_lines(metrics) if "val/rsum" in line}
