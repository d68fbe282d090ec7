"""What we use of Optuna's private parts, tried on the real ones: an upgrade of Optuna that changes
them shows here.
"""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from distill_ray.search import _optuna_internals as internals


@pytest.fixture
def journal(tmp_path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(tmp_path / "journal")))


def test_the_storage_of_a_study_and_its_file(journal: JournalStorage, tmp_path: Path) -> None:
    study = optuna.create_study(storage=journal)
    assert internals.storage_of(study) is journal
    assert isinstance(internals.backend_of(journal), JournalFileBackend)
    database = RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    assert internals.CachedStorage(database).get_all_studies() == []
    assert internals.backend_of(database) is None


def test_entries_that_were_read_are_counted(journal: JournalStorage, tmp_path: Path) -> None:
    optuna.create_study(storage=journal).ask()
    lines = (tmp_path / "journal").read_bytes().count(b"\n")
    assert internals.entries_read(journal) == lines > 1


def test_a_trial_of_another_driver_can_be_changed(journal: JournalStorage, tmp_path: Path) -> None:
    study = optuna.create_study(storage=journal, study_name="search")
    study.ask()
    other = optuna.load_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal"))), study_name="search"
    )
    (left,) = other.get_trials(states=(TrialState.RUNNING,))
    internals.running_trial(other, left).set_user_attr("reason", "gone")
    assert study.trials[0].user_attrs == {"reason": "gone"}


def test_the_trial_that_a_journal_keeps_is_the_one_that_others_see(journal: JournalStorage) -> None:
    study = optuna.create_study(storage=journal)
    trial = study.ask({"x": FloatDistribution(0, 1)})
    kept, shared = internals.kept_trial(journal, trial), {"x": FloatDistribution(0, 2)}
    kept.distributions = shared
    (seen,) = study.get_trials(deepcopy=False)
    assert seen.distributions is shared


def test_a_journal_reads_on_without_its_offsets(journal: JournalStorage, tmp_path: Path) -> None:
    study = optuna.create_study(storage=journal)
    study.ask()
    backend = internals.backend_of(journal)
    before = len(backend._log_number_offset)
    count, end = internals.keep_last_offset(backend)
    assert before > 2 and len(backend._log_number_offset) == 2
    assert count == internals.entries_read(journal)
    assert end == (tmp_path / "journal").stat().st_size
    study.ask()
    assert len(study.trials) == 2


def test_a_view_of_a_study_has_only_the_trials_to_keep(journal: JournalStorage) -> None:
    study = optuna.create_study(storage=journal)
    for value in (0.0, 1.0):
        study.enqueue_trial({"x": value})
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), value)
    view = internals.only_trials(study, lambda trial: trial.params["x"] > 0.5)
    assert [trial.number for trial in view.get_trials(deepcopy=False)] == [1]
    assert len(study.get_trials()) == 2
