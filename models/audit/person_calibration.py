"""Fit the models of all views on the people whom a shadow model left out, and store them.

The shadow's left-out people show what leaving a person out changes. The manifest of the release
keeps the parameters (`PersonCalibration.values`), a flat object with a version; no weight of the
shadow and no value of a person is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from models.audit.evidence import VIEWS, Evidence
from models.audit.view_model import ViewModel
from models.data.forget_split import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.evidence import Answers

#: Version of the stored parameters. A manifest with another version counts as not calibrated.
VERSION: Final = 2
#: A model is fitted for kinds of rows of which the shadow left out at least this many people, if
#: at least as many people have control rows.
MINIMUM_PEOPLE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonCalibration:
    """The models by kind of row and view; kinds with too few left-out people have none.

    `people` is the number of left-out people of each kind, also of kinds without a model.
    """

    models: Mapping[str, Mapping[str, ViewModel]]
    people: Mapping[str, int]

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Fit the models; `evidence.forget` are the left-out people's rows."""
        people, models = people_by_kind(evidence.forget), {}
        controls = len(np.unique(evidence.controls.users))
        for index, kind in enumerate(KINDS):
            if min(people[kind], controls) < MINIMUM_PEOPLE:
                continue
            forget = evidence.forget.take(evidence.forget.kinds == index)
            views = Evidence(forget=forget, controls=evidence.controls).views()
            models[kind] = {view: ViewModel.of(views[view]) for view in VIEWS}
        return cls(models=models, people=people)

    def values(self) -> dict[str, Any]:
        """Return flat JSON values: `kind.view.parameter` → number or list of numbers."""
        flat: dict[str, Any] = {"version": VERSION}
        flat |= {f"{kind}.people": count for kind, count in self.people.items()}
        for kind, views in self.models.items():
            for view, model in views.items():
                flat |= {f"{kind}.{view}.{name}": item for name, item in model.values().items()}
        return flat

    @classmethod
    def from_values(cls, values: Mapping[str, Any] | None) -> Self | None:
        """Return the calibration; None for values of another version or of none."""
        if not values or values.get("version") != VERSION:
            return None
        models: dict[str, dict[str, ViewModel]] = {}
        try:
            for kind in KINDS:
                if f"{kind}.{VIEWS[0]}.people" not in values:
                    continue
                models[kind] = {
                    view: ViewModel.from_values(_below(values, f"{kind}.{view}.")) for view in VIEWS
                }
            people = {kind: int(values[f"{kind}.people"]) for kind in KINDS}
        except (KeyError, TypeError, ValueError):
            return None
        return cls(models=models, people=people)


def people_by_kind(rows: Answers) -> dict[str, int]:
    """Return the number of people with rows of each kind."""
    return {
        kind: len(np.unique(rows.users[rows.kinds == index])) for index, kind in enumerate(KINDS)
    }


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): item for name, item in values.items() if name.startswith(prefix)
    }
