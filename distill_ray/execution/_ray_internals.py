"""What we use of Ray that is not part of its public interface. An upgrade of Ray is checked here:
each function has a test that fails when Ray has changed.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


def error_of(trial: Any) -> Exception:
    """The last error of a Tune trial, from the file in which Tune keeps it for the driver."""
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return RuntimeError("its process died")
    assert isinstance(error, Exception)
    return error


def forget_ended(controller: Any) -> None:
    """Take the trials that have ended out of everything in which Tune's controller keeps them.

    Tune holds all trials until the search is over, ten kilobytes each, goes through all of them in
    every step, and writes all of them down at the end. What is wanted of them is in Optuna and in
    the store by then. Tune has no public way to say so: of its collections those that are not found
    under these names are left alone, and then memory grows as it would without this.
    """
    trials = controller.get_trials()
    ended = [trial for trial in trials if trial.is_finished()]
    if not ended:
        return
    trials[:] = [trial for trial in trials if trial not in ended]
    holder = getattr(controller, "_tune_controller", controller)
    for name in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(holder, name, set()).difference_update(ended)
    for trial in ended:
        getattr(holder, "_trial_metadata", {}).pop(trial.trial_id, None)
    _drop_orders_to_nobody(getattr(holder, "_actor_manager", None))


def _drop_orders_to_nobody(manager: Any) -> None:
    """Forget what processes were to do that Tune asked for and then did not need, since another one
    became free first.
    """
    orders = getattr(manager, "_pending_actors_to_enqueued_actor_tasks", {})
    expected = getattr(manager, "_pending_actors_to_attrs", orders)
    for actor in [actor for actor in orders if actor not in expected]:
        del orders[actor]
