"""The contributions of all users to the counts of an index."""

from __future__ import annotations

from models.retrieval.contributions import NOTHING, Contribution
from models.retrieval.shared_map import SharedMap


class UserContributions(SharedMap[Contribution]):
    """A map from user ids to contributions, without users who contribute nothing."""

    def __getitem__(self, user_id: str) -> Contribution:
        """Return a user's contribution, which is empty for an unknown user."""
        return self.get(user_id) or NOTHING

    def __setitem__(self, user_id: str, contribution: Contribution) -> None:
        """Replace a user's contribution; an empty contribution removes the user."""
        self.put(user_id, contribution if len(contribution.rated) else None)
