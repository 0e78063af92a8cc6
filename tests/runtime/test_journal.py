"""An intent is there before the act, and gone with the record that the act leads to."""

from __future__ import annotations

import pytest

from runtime.journal import Intent, Journal
from runtime.paths import Paths
from runtime.store import Store


def acts(journal: Journal) -> list[tuple[str, str]]:
    return [(intent.owner, intent.act) for intent in journal.open_intents()]


def test_what_was_begun_is_open_until_it_is_undone(journal: Journal) -> None:
    journal.begin("a", "create")
    journal.begin("b", "remove")
    assert acts(journal) == [("a", "create"), ("b", "remove")]
    journal.undone("a", "create")
    assert acts(journal) == [("b", "remove")]
    journal.undone("a", "create")
    journal.undone("nobody", "nothing")
    assert acts(journal) == [("b", "remove")]


def test_the_oldest_comes_first(journal: Journal) -> None:
    for owner in "cab":
        journal.begin(owner, "create")
    intents = journal.open_intents()
    assert [intent.owner for intent in intents] == ["c", "a", "b"]
    assert [intent.begun_at_ns for intent in intents] == sorted(intent.begun_at_ns for intent in intents)


def test_one_owner_may_have_several_acts_and_one_act_is_begun_once(journal: Journal) -> None:
    journal.begin("a", "create")
    journal.begin("a", "stop")
    journal.begin("a", "create")
    assert sorted(acts(journal)) == [("a", "create"), ("a", "stop")]


def test_an_act_is_finished_together_with_its_record_or_not_at_all(journal: Journal, store: Store) -> None:
    journal.begin("a", "create")
    with pytest.raises(ZeroDivisionError), store.transaction() as db:
        db.execute("INSERT INTO sandboxes VALUES ('a', x'')")
        journal.finish(db, "a", "create")
        raise ZeroDivisionError
    assert acts(journal) == [("a", "create")]
    assert store.rows("SELECT id FROM sandboxes") == []
    with store.transaction() as db:
        db.execute("INSERT INTO sandboxes VALUES ('a', x'')")
        journal.finish(db, "a", "create")
    assert acts(journal) == []
    assert store.rows("SELECT id FROM sandboxes") == [("a",)]


def test_an_intent_outlives_the_process(journal: Journal, paths: Paths) -> None:
    journal.begin("a", "create")
    other = Store(paths.database)
    [intent] = Journal(other).open_intents()
    assert intent == Intent("a", "create", intent.begun_at_ns)
    other.close()
