"""Trials that stop a method early or leave out one of its parts, to show what each part does.

The first trials of E2URec are points of one trajectory: all have the same steps, and later ones
have more of them. The others leave out a part. No trial chooses a setting of E2URec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.tuning.trials import Trial
from benchmarks.unlearning.errors import BenchmarkInputError
from models.unlearning.e2urec import E2URec, E2URecConfig
from models.unlearning.e2urec_fast import E2URecFast, E2URecFastConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from models.unlearning.base import UnlearningMethod

GROUP: Final = "part"
#: Settings of E2URec's trials; settings that are not named are the published ones.
_E2UREC: Final[Sequence[Mapping[str, Any]]] = (
    {"forget_epochs": 0.25, "joint_steps": 0},
    {"forget_epochs": 0.5, "joint_steps": 0},
    {"forget_epochs": 1.0, "joint_steps": 0},
    {"forget_epochs": 1.0, "joint_steps": 47},
    {"forget_epochs": 1.0, "joint_steps": 94},
    {"forget_epochs": 1.0, "joint_steps": 188},
    {"forget_epochs": 1.0, "joint_steps": 500},
    {"forget_epochs": 1.0, "joint_steps": 2000},
    {"forget_epochs": 0.0, "joint_steps": 188},
    {"forget_epochs": 1.0, "joint_steps": 188, "forget_weight": 0.0},
    {"forget_epochs": 1.0, "joint_steps": 188, "forget_weight": 1.0},
    {"forget_epochs": 1.0, "joint_steps": 188, "augment_steps": 200},
    {"forget_epochs": 1.0, "joint_steps": 188, "augment_steps": 200, "alpha": 0.5},
    {"forget_epochs": 0.0, "joint_steps": 2000, "augment_steps": 200, "alpha": 0.5},
)
#: Settings of `e2urec-fast`'s trials; settings that are not named are the defaults.
_FAST: Final[Sequence[Mapping[str, Any]]] = (
    {"most_rounds": 1},
    {"most_rounds": 2},
    {"most_rounds": 4},
    {"steps": 8},
    {"steps": 16},
    {"steps": 32},
    {"overshoot_factor": 1.0},
    {"overshoot_factor": 2.0},
    {"overshoot_factor": 6.0},
    {"retain_batch": 16},
    {"retain_batch": 64},
    # The settings of decision 0023 for batches of many rows.
    {
        "most_rounds": 1,
        "steps": 48,
        "rate_rows": 1,
        "learning_rate": 3e-3,
        "forget_batch": 64,
        "overshoot_factor": 6.0,
        "most_scale": 1.2,
    },
)
_MAKE: Final[Mapping[str, tuple[Callable[..., UnlearningMethod], Sequence[Mapping[str, Any]]]]] = {
    E2URec.name: (lambda **settings: E2URec(E2URecConfig(**settings)), _E2UREC),
    E2URecFast.name: (lambda **settings: E2URecFast(E2URecFastConfig(**settings)), _FAST),
}


def parts_of(name: str) -> list[Trial]:
    """Return the trials of a method's parts; raises BenchmarkInputError for a method without."""
    if name not in _MAKE:
        raise BenchmarkInputError(f"--parts has no trials of {name}, only of {', '.join(_MAKE)}.")
    make, every = _MAKE[name]
    return [
        Trial(method=make(**settings), number=number, settings=dict(settings), group=GROUP)
        for number, settings in enumerate(every, start=1)
    ]
