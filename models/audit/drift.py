"""Measure how far a release has drifted from the exact training of its lineage.

The exact training stores aggregate figures of its losses on rows that no release of the lineage
trains on: no value of a row or of a person. Later releases measure the same rows, less those that
deletions removed meanwhile. The mean loss of the rows that are left differs from the mean loss of
all rows by chance, and by no more than that an increase does not count.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from models.data.splits import MINIMUM_SPLIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Figures are stored of at least this many users, so that they are not those of a single person.
MINIMUM_USERS: Final = 5
#: An increase of up to this many standard errors is noise.
NOISE_ERRORS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowLosses:
    """Log losses (nats) of M rows, and the index of the user of each row, both [M]."""

    users: NDArray[np.int32]
    losses: NDArray[np.float64]

    def take(self, rows: NDArray[np.bool_]) -> RowLosses:
        """Return the selected rows."""
        return RowLosses(users=self.users[rows], losses=self.losses[rows])

    @property
    def are_enough(self) -> bool:
        """Return whether figures of the rows may be stored and compared."""
        return (
            len(self.losses) >= MINIMUM_SPLIT
            and len(np.unique(self.users)) >= MINIMUM_USERS
            and bool(np.isfinite(self.losses).all())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFigures:
    """The mean loss (nats) of rows, and how much single rows and users differ from the mean.

    `row_deviation` is the standard deviation of the losses of rows. `user_deviation` is that of
    the users' sums of differences from the mean, divided by the mean number of rows of a user: the
    mean loss of k random users has the standard error user_deviation / sqrt(k).
    """

    rows: int
    users: int
    loss: float
    row_deviation: float
    user_deviation: float

    @classmethod
    def of(cls, rows: RowLosses) -> Self:
        """Return the figures of at least two users."""
        loss = float(rows.losses.mean())
        users, index = np.unique(rows.users, return_inverse=True)
        sums = np.bincount(index, weights=rows.losses - loss)
        # The sums of all users add up to 0.
        deviation = math.sqrt(float(np.square(sums).sum()) / (len(users) - 1))
        return cls(
            rows=len(rows.losses),
            users=len(users),
            loss=loss,
            row_deviation=float(rows.losses.std(ddof=1)),
            user_deviation=deviation * len(users) / len(rows.losses),
        )

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> Self | None:
        """Return the figures; None if the group had too few rows or users for them."""
        return cls(**values) if "loss" in values else None

    def error_of_rest(self, rest: RowLosses) -> float:
        """Return the standard error of the mean loss of the rows that are left.

        This is the error of a sample without replacement, of users or of rows, whichever is larger.
        The error is 0 while all rows are left: then the same rows are compared.
        """
        users = len(np.unique(rest.users))
        return max(
            self.user_deviation * _error_factor(users, self.users),
            self.row_deviation * _error_factor(len(rest.losses), self.rows),
        )


def loss_figures(rows: RowLosses) -> dict[str, Any]:
    """Return the figures as JSON values; of too few rows or users, the number of rows only."""
    return asdict(LossFigures.of(rows)) if rows.are_enough else {"rows": len(rows.losses)}


def compare_with_root(
    root: LossFigures | None, rest: RowLosses, largest_increase: float
) -> dict[str, Any]:
    """Return the drift of one group of rows as JSON values.

    `measured` is the relative increase of the mean loss, `noise` the relative increase that chance
    explains, and `increase` the increase that counts: 0 within the noise. The drift is not compared
    (`reason` instead of `increase`) if the exact training stored no figures, if fewer than
    MINIMUM_SPLIT rows or MINIMUM_USERS users are left, or if so few are left that chance explains
    `largest_increase`, the increase that ends the lineage.
    """
    values: dict[str, Any] = {"rows": len(rest.losses)}
    if root is None or root.loss <= 0:
        return values | {"reason": "the exact training stored no figures of such rows"}
    if not rest.are_enough:
        return values | {"reason": "too few rows or users are left"}
    loss = float(rest.losses.mean())
    measured = loss / root.loss - 1
    noise = NOISE_ERRORS * root.error_of_rest(rest) / root.loss
    values |= {"loss": loss, "root_loss": root.loss, "measured": measured, "noise": noise}
    if noise >= largest_increase:
        return values | {"reason": "so few rows are left that chance explains the largest increase"}
    return values | {"increase": measured if measured > noise else 0.0}


def _error_factor(left: int, total: int) -> float:
    return math.sqrt(max(0.0, 1 / left - 1 / total))
