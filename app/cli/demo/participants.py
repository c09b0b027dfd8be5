"""Choose the users of the demo: the user to forget, and users who are served meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.cli.failures import CommandError

if TYPE_CHECKING:
    from app.cli.installation import Installation

#: Preferred number of ratings of the user to forget: typical, and enough for the audit.
_TYPICAL_RATINGS: Final = 150
#: The model is trained on about this share of the ratings, the earliest ones.
_TRAINED_SHARE: Final = 0.9
_MAX_OTHERS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """The user to forget, the number of that user's ratings, and other users."""

    forgotten: str
    ratings: int
    others: tuple[str, ...]


def choose_participants(installation: Installation) -> Participants:
    """Choose the participants; the user to forget is one that the model was trained on.

    Raises CommandError if there is no such user.
    """
    times_by_user: dict[str, list[int]] = {}
    with installation.uow(write=False) as uow:
        for interaction in uow.people.interactions():
            times_by_user.setdefault(interaction.user_id, []).append(interaction.timestamp)
        holdout_users = uow.people.holdout_users()
    all_times = [time for times in times_by_user.values() for time in times]
    bound = np.quantile(all_times, _TRAINED_SHARE)
    trained = {
        user: len(times)
        for user, times in times_by_user.items()
        if max(times) < bound and user not in holdout_users
    }
    if not trained or len(times_by_user) <= 1:
        raise CommandError("The data set is too small: it has no user that training can forget.")
    forgotten = min(trained, key=lambda user: (abs(trained[user] - _TYPICAL_RATINGS), user))
    others = sorted(
        times_by_user.keys() - {forgotten}, key=lambda user: (-len(times_by_user[user]), user)
    )
    step = max(1, len(others) // _MAX_OTHERS)
    return Participants(
        forgotten=forgotten,
        ratings=trained[forgotten],
        others=tuple(others[::step][:_MAX_OTHERS]),
    )
