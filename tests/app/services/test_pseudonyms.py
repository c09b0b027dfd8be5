"""Keyed hashes are stable, depend on the key, and do not collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.requests import Scope, Subject
from app.services.pseudonyms import Pseudonyms

HASHES = Pseudonyms(b"one key")
IDS = st.text(min_size=1, max_size=20)


@given(IDS, IDS, IDS, IDS)
def test_different_pairs_have_different_hashes(a: str, b: str, c: str, d: str) -> None:
    same = HASHES.interaction(a, b) == HASHES.interaction(c, d)
    assert same == ((a, b) == (c, d))


@given(IDS)
def test_hash_depends_on_kind_and_key(value: str) -> None:
    hashes = {HASHES.user(value), HASHES.item(value), Pseudonyms(b"two").user(value)}
    assert len(hashes) == 3


def test_hash_of_known_id_is_unchanged() -> None:
    # With another hash function, no stored tombstone would match.
    assert HASHES.user("42") == ("991baa940f6c93ac4b50346fa578aa2ef119b8c233f4c064b125370dd11851ad")


def test_subject_has_one_hash_per_suppressed_id() -> None:
    pairs = Subject(scope=Scope.USER_ITEMS, user_id="1", item_ids=("a", "b"))
    assert HASHES.of(pairs) == (HASHES.interaction("1", "a"), HASHES.interaction("1", "b"))
    assert HASHES.of(Subject(scope=Scope.USER, user_id="1")) == (HASHES.user("1"),)
    assert HASHES.of(Subject(scope=Scope.ITEM, item_ids=("a",))) == (HASHES.item("a"),)


def test_holdout_users_have_about_their_share_and_grow_with_it() -> None:
    users = [str(n) for n in range(4000)]
    small = {user for user in users if HASHES.never_trained(user, 0.03)}
    large = {user for user in users if HASHES.never_trained(user, 0.3)}
    assert small < large
    assert 70 <= len(small) <= 180
    assert 1050 <= len(large) <= 1350


def test_repr_does_not_show_the_key() -> None:
    assert "one key" not in repr(HASHES)
