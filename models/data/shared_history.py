"""Average values over the samples of a person by the part of the history that the samples share.

Training on a sample changes the answers of samples with a similar prompt. The histories of a
person's consecutive samples differ in one item only, so that most of what a model remembers of a
person's rating is found in the answers of the samples around it (docs/methods.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from models.data.samples import HISTORY_LENGTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.samples import Samples


def shared_history_sums(samples: Samples, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [M]: for each sample, the weighted sum of the [M] values of the person's samples.

    The weight of a value is n / K², for the n items that both histories have and K =
    HISTORY_LENGTH. The weights of a sample in the middle of a long history sum to 1; those of a
    person with few samples sum to less.
    """
    rows, columns = np.nonzero(samples.history >= 0)
    if not len(rows):
        return np.zeros(len(samples))
    # One column per (user, item) pair, so that other people's samples share nothing.
    pairs = samples.user[rows].astype(np.int64) << 32 | samples.history[rows, columns]
    _, pair = np.unique(pairs, return_inverse=True)
    contains = sparse.csr_matrix((np.ones(len(rows)), (rows, pair)), (len(samples), pair.max() + 1))
    sums: NDArray[np.float64] = contains @ (contains.T @ values)
    return sums / HISTORY_LENGTH**2
