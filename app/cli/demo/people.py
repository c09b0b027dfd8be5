"""Who plays in the demo: one person to forget, and others who must not notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.cli.failures import CommandError

if TYPE_CHECKING:
    from app.cli.installation import Installation

#: Someone with about this many ratings: enough for the audit to tell, and like most people.
_TYPICAL: Final = 150
#: The model trains on about this share of time.
_TRAINED_SHARE: Final = 0.9
_OTHERS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The forgotten person, how many ratings they have, and the others."""

    leaving: str
    ratings: int
    staying: tuple[str, ...]


def choose(installation: Installation) -> Cast:
    """Return who plays: the person to forget is one whom the model was trained on."""
    held: dict[str, list[int]] = {}
    with installation.uow(write=False) as uow:
        for interaction in uow.people.interactions():
            held.setdefault(interaction.user_id, []).append(interaction.timestamp)
    bound = np.quantile([time for times in held.values() for time in times], _TRAINED_SHARE)
    share = installation.settings.holdout_share
    trained = {
        user: len(times)
        for user, times in held.items()
        if max(times) < bound and not installation.pseudonyms.never_trained(user, share)
    }
    if not trained or len(held) <= 1:
        raise CommandError("The data set is too small: nobody in it can be forgotten by training.")
    leaving = min(trained, key=lambda user: (abs(trained[user] - _TYPICAL), user))
    others = sorted((user for user in held if user != leaving), key=lambda u: (-len(held[u]), u))
    step = max(1, len(others) // _OTHERS)
    return Cast(leaving=leaving, ratings=trained[leaving], staying=tuple(others[::step][:_OTHERS]))
