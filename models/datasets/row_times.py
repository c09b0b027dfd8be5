"""Draw times for ratings without times, and find the latest rating of each user and item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from models.datasets.options import NoTimestamps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport

#: The first of the times that ratings without times get: the year 2000. They are a second apart.
_FIRST_TIME: Final = 946_684_800


def drawn_times(
    user: NDArray[np.int32], options: ReadOptions, report: ReadReport, ignored: int
) -> NDArray[np.int64]:
    """Return times for the rows of users `user`, [N] int64, as the option `no_timestamps` says.

    `ignored` is the number of times in the file, which are left out.
    """
    choice = options.no_timestamps or NoTimestamps.ORDER
    report.no_timestamps = choice.value
    order = np.arange(len(user), dtype=np.int64)
    if choice is NoTimestamps.RANDOM:
        order = np.random.default_rng(options.seed).permutation(order)
        note = "the times of the ratings are a random order"
        note += "" if ignored else ", because the file has no times"
    else:
        note = "the times of the ratings are the order of the rows"
        if _is_sorted_by_user(user):
            note += (
                ", but the rows are sorted by user, so the times of one user are all before"
                " those of the next; use --no-timestamps random"
            )
    if ignored:
        note += f"; the file has times, and --no-timestamps {choice} left them out"
    report.notes.append(note)
    return _FIRST_TIME + order


def _is_sorted_by_user(user: NDArray[np.int32]) -> bool:
    """Return whether the rows of every user are together, with several rows per user."""
    users = len(np.unique(user))
    changes = int(np.count_nonzero(user[1:] != user[:-1]))
    return users > 1 and changes == users - 1 and len(user) > users


def latest_rows(
    user: NDArray[np.int32], item: NDArray[np.int32], timestamp: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the last row by timestamp of every (user, item), in reading order.

    Of rows with equal timestamps, the last in reading order counts.
    """
    pair = user.astype(np.int64) << 32 | item
    order = np.lexsort((timestamp, pair))  # Stable: rows with equal timestamps keep reading order.
    is_last = np.append(pair[order][1:] != pair[order][:-1], True)
    return np.sort(order[is_last])
