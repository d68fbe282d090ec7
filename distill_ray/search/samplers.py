"""Optuna's samplers, as the study file names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from distill_ray.search._optuna_internals import only_trials
from distill_ray.study import Search

LARGEST_POPULATION = 50
"""Of the evolutionary samplers; a search of few trials has a smaller one, or it never evolves."""


def make_sampler(search: Search, past_trials: int) -> samplers.BaseSampler:
    """The sampler of the study file. After a restart it goes on with other random numbers, not with
    the first ones again; sequences and grids go on where they were.
    """
    if search.for_each is not None:
        return ForEach(search, past_trials)
    return _sampler(search, past_trials, search.trials)


def _sampler(search: Search, past_trials: int, trials: int) -> samplers.BaseSampler:
    """The sampler of a search of so many trials."""
    seed = search.seed + past_trials
    startup = min(10, max(4, trials // 4))
    population = min(LARGEST_POPULATION, max(4, trials // 4))
    match search.chosen_sampler:
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "grid":
            return GridSampler(seed=search.seed)
        case "qmc":
            return samplers.QMCSampler(
                scramble=True, seed=search.seed, warn_independent_sampling=False
            )
        case "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "cmaes":
            return samplers.CmaEsSampler(
                seed=seed, n_startup_trials=startup, warn_independent_sampling=False
            )
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=population)
        case "nsga3":
            return samplers.NSGAIIISampler(seed=seed, population_size=population)
    return samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)


class ForEach(samplers.BaseSampler):
    """A search of its own for each choice of one setting: a sampler that sees only the trials that
    had that choice.
    """

    def __init__(self, search: Search, past_trials: int) -> None:
        assert search.for_each is not None
        self._name = search.for_each
        choices = search.each
        self._samplers = {
            choice: _sampler(search, past_trials + place, search.trials // len(choices))
            for place, choice in enumerate(choices)
        }

    def _of(self, study: Study, trial: FrozenTrial) -> tuple[samplers.BaseSampler, Study]:
        """The sampler of the trial's choice, which was fixed when it was queued, and what that
        sampler may see.
        """
        fixed = trial.system_attrs.get("fixed_params", {}) | trial.params
        choice = fixed.get(self._name)
        if choice not in self._samplers:
            return next(iter(self._samplers.values())), study
        view = only_trials(study, lambda other: other.params.get(self._name) == choice)
        return self._samplers[choice], view

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        sampler, view = self._of(study, trial)
        return sampler.infer_relative_search_space(view, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampler, view = self._of(study, trial)
        return sampler.sample_relative(view, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler, view = self._of(study, trial)
        return sampler.sample_independent(view, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        sampler, view = self._of(study, trial)
        sampler.after_trial(view, trial, state, values)


class GridSampler(samplers.BruteForceSampler):
    """Every configuration once, in random order, those of conditional spaces too. The search knows
    by itself when it has had them all.
    """

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing: Optuna would stop a loop of its own, and there is none."""
