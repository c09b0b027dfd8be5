"""Describe how the answers of two models differ on a person's rows, in three views.

A row's *margin* is the logit of Yes minus the logit of No; its *signed* margin is negated for the
label No, so that it is the confidence in what the person said (the statistic of LiRA, Carlini et
al., arXiv 2112.03570). The views are the change of

- `answers`: the signed margin on the forgotten prompts;
- `neighbors`: the signed margin on prompts that were not trained: the same candidates with
  histories that lack the newest event;
- `exposure`: the signed rank of the margin among the control rows, in shares of them. It tells
  whether the person's liked items still surface. No method optimizes a rank, and a shift or a
  temperature of all answers changes none.

Controls are rows of people who are not forgotten. A change that both groups share, such as another
seed's general bias or confidence, is not forgetting; `models.audit.person_model` subtracts it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ANSWERS: Final = "answers"
NEIGHBORS: Final = "neighbors"
EXPOSURE: Final = "exposure"
VIEWS: Final = (ANSWERS, NEIGHBORS, EXPOSURE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Margins of two models on M rows.

    `users` [M] are user indices, `labels` [M] are 0 or 1, `kinds` [M] are indices into KINDS; `old`
    and `new` are [M] margins (logits) of the older and of the newer model.
    """

    users: NDArray[np.integer]
    labels: Floats
    kinds: NDArray[np.integer]
    old: Floats
    new: Floats

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Self:
        """Return the selected rows."""
        return type(self)(
            **{column.name: getattr(self, column.name)[rows] for column in fields(self)}
        )

    @property
    def signs(self) -> Floats:
        """Return [M] 1 for the label Yes, -1 for No."""
        return 2 * self.labels - 1

    @property
    def has_numbers(self) -> bool:
        """Return whether every margin of the older model is a finite number."""
        return bool(np.isfinite(self.old).all())

    @property
    def has_new_numbers(self) -> bool:
        """Return whether every margin of the newer model is a finite number."""
        return bool(np.isfinite(self.new).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnsweredRows(Answers):
    """Margins of two models on M rows and on the neighbor prompt of each row, each [M] (logits)."""

    old_neighbors: Floats
    new_neighbors: Floats

    @property
    def has_numbers(self) -> bool:
        """Return whether every margin of the older model is a finite number."""
        return bool(np.isfinite([self.old, self.old_neighbors]).all())

    @property
    def has_new_numbers(self) -> bool:
        """Return whether every margin of the newer model is a finite number."""
        return bool(np.isfinite([self.new, self.new_neighbors]).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """The forget rows and the control rows of one comparison. No person is in both."""

    forget: AnsweredRows
    controls: AnsweredRows

    def views(self) -> dict[str, View]:
        """Return the three views of the comparison."""
        forget, controls = self.forget, self.controls
        before, after = np.sort(controls.old), np.sort(controls.new)
        return {
            ANSWERS: View(
                forget=_shift(forget, forget.old, forget.new),
                controls=_shift(controls, controls.old, controls.new),
            ),
            NEIGHBORS: View(
                forget=_shift(forget, forget.old_neighbors, forget.new_neighbors),
                controls=_shift(controls, controls.old_neighbors, controls.new_neighbors),
            ),
            EXPOSURE: View(
                forget=_shift(forget, _ranks(before, forget.old), _ranks(after, forget.new)),
                controls=_shift(
                    controls, _ranks(before, controls.old), _ranks(after, controls.new)
                ),
            ),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shift:
    """The change of M rows: `change` [M], its `features` [M, 3] and `users` [M].

    The features are 1, the signed value before (centered ranks for the exposure), and the sign of
    the label. The value before covers regression to the mean and temperature, the sign covers a
    bias of all answers.
    """

    users: NDArray[np.integer]
    change: Floats
    features: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The change of the forget rows and of the control rows in one view."""

    forget: Shift
    controls: Shift


def _shift(rows: AnsweredRows, old: Floats, new: Floats) -> Shift:
    signs = rows.signs
    return Shift(
        users=rows.users,
        change=signs * (new - old),
        features=np.column_stack([np.ones(len(rows)), signs * old, signs]),
    )


def _ranks(references: Floats, margins: Floats) -> Floats:
    """Return the [M] ranks of margins among ascending references, from -.5 to .5."""
    below = np.searchsorted(references, margins, "left")
    up_to = np.searchsorted(references, margins, "right")
    return np.asarray((below + up_to) / (2 * len(references)) - 0.5, dtype=np.float64)
