"""The ten trials of every tuned method: the published settings and a grid over two settings.

The grid covers how fast or how long a method trains, and how strongly it weighs forgetting. Trial 1
has the published settings, scaled as the method's docstring says. A first grid of NegGrad (100 to
400 steps at the published rate) was given up after five trials, which moved too far; the grids of
all methods below were fixed then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.errors import BenchmarkInputError
from models.unlearning.badt import BadTeacher, BadTeacherConfig
from models.unlearning.e2urec import E2URec, E2URecConfig
from models.unlearning.finetune import FineTune, FineTuneConfig
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from models.unlearning.neggrad_calibrated import CalibratedNegGrad, CalibratedNegGradConfig
from models.unlearning.npo import PUBLISHED_LOOP, Npo, NpoConfig
from models.unlearning.scrub import Scrub, ScrubConfig
from models.unlearning.simnpo import SimNpo, SimNpoConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.unlearning.base import UnlearningMethod

#: Number of trials of every method.
BUDGET: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A method with the settings of one trial; `settings` has those that differ between trials."""

    method: UnlearningMethod
    number: int
    settings: dict[str, Any] = field(default_factory=dict)
    #: Trials of one method with the same number and different groups are different trials.
    group: str = ""

    @property
    def name(self) -> str:
        """Return the method's name, the group if there is one, and the trial's number."""
        return "-".join(filter(None, [self.method.name, self.group, str(self.number)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The published settings and the grid of one method: `make` receives one value of each axis."""

    published: UnlearningMethod
    published_settings: dict[str, Any]
    axes: dict[str, Sequence[Any]]
    make: Callable[..., UnlearningMethod]

    def trials(self) -> list[Trial]:
        """Return the trials, numbered from 1."""
        trials = [Trial(method=self.published, number=1, settings=self.published_settings)]
        for number, values in enumerate(product(*self.axes.values()), start=2):
            settings = dict(zip(self.axes, values, strict=True))
            trials.append(Trial(method=self.make(**settings), number=number, settings=settings))
        return trials


def _neggrad(rate_share: float, forget_weight: float) -> NegGrad:
    return NegGrad(NegGradConfig(loop=_short(rate_share), forget_weight=forget_weight))


def _calibrated(rate_share: float, forget_weight: float) -> CalibratedNegGrad:
    loop = LoopConfig(rate_share=rate_share)
    return CalibratedNegGrad(CalibratedNegGradConfig(loop=loop, forget_weight=forget_weight))


def _badt(rate_share: float, forget_weight: float) -> BadTeacher:
    return BadTeacher(BadTeacherConfig(loop=_short(rate_share), forget_weight=forget_weight))


def _finetune(steps: int, rate_share: float) -> FineTune:
    return FineTune(FineTuneConfig(loop=LoopConfig(steps=steps, rate_share=rate_share)))


def _npo(rate_share: float, retain_weight: float) -> Npo:
    loop = replace(PUBLISHED_LOOP, rate_share=rate_share, epochs=0.25)
    return Npo(NpoConfig(loop=loop, retain_weight=retain_weight))


def _simnpo(rate_share: float, forget_weight: float) -> SimNpo:
    loop = replace(PUBLISHED_LOOP, rate_share=rate_share, epochs=0.25)
    return SimNpo(SimNpoConfig(loop=loop, forget_weight=forget_weight))


def _scrub(rate_share: float, passes: float) -> Scrub:
    return Scrub(ScrubConfig(rate_share=rate_share, passes=passes))


def _e2urec(augment_steps: int, alpha: float) -> E2URec:
    return E2URec(E2URecConfig(augment_steps=augment_steps, alpha=alpha))


def _short(rate_share: float) -> LoopConfig:
    """Return a loop of 128 steps: the published steps pass over the retained rows once more."""
    return LoopConfig(rate_share=rate_share, steps=128)


_SPACES: Final[dict[str, Space]] = {
    "neggrad": Space(
        published=NegGrad(NegGradConfig(loop=LoopConfig(rate_share=0.1, steps=3000))),
        published_settings={"rate_share": 0.1, "forget_weight": 0.2, "steps": 3000},
        axes={"rate_share": (0.01, 0.03, 0.06), "forget_weight": (0.2, 0.5, 1.0)},
        make=_neggrad,
    ),
    "neggrad-calibrated": Space(
        published=_calibrated(0.1, 0.2),
        published_settings={"rate_share": 0.1, "forget_weight": 0.2},
        axes={"rate_share": (0.01, 0.03, 0.1), "forget_weight": (0.5, 1.0, 2.0)},
        make=_calibrated,
    ),
    "badt": Space(
        published=BadTeacher(
            BadTeacherConfig(loop=LoopConfig(rate_share=0.1, steps=2400), forget_weight=0.2)
        ),
        published_settings={"rate_share": 0.1, "forget_weight": 0.2, "steps": 2400},
        axes={"rate_share": (0.01, 0.03, 0.06), "forget_weight": (0.1, 0.2, 0.5)},
        make=_badt,
    ),
    "finetune": Space(
        published=_finetune(3000, 0.1),
        published_settings={"steps": 3000, "rate_share": 0.1},
        axes={"steps": (64, 128, 256), "rate_share": (0.03, 0.1, 0.3)},
        make=_finetune,
    ),
    "npo": Space(
        published=Npo(NpoConfig(loop=PUBLISHED_LOOP, retain_weight=1.0)),
        published_settings={"rate_share": 1.0, "retain_weight": 1.0, "epochs": 10.0},
        axes={"rate_share": (0.01, 0.03, 0.06), "retain_weight": (1.0, 3.0, 10.0)},
        make=_npo,
    ),
    "simnpo": Space(
        published=SimNpo(SimNpoConfig(loop=PUBLISHED_LOOP, forget_weight=0.125)),
        published_settings={"rate_share": 1.0, "forget_weight": 0.125, "epochs": 10.0},
        axes={"rate_share": (0.01, 0.03, 0.06), "forget_weight": (0.125, 0.5, 2.0)},
        make=_simnpo,
    ),
    "scrub": Space(
        published=_scrub(0.05, 1.0),
        published_settings={"rate_share": 0.05, "passes": 1.0},
        axes={"rate_share": (0.02, 0.05, 0.15), "passes": (0.02, 0.04, 0.08)},
        make=_scrub,
    ),
    "e2urec": Space(
        published=_e2urec(1200, 2.0),
        published_settings={"augment_steps": 1200, "alpha": 2.0},
        axes={"augment_steps": (100, 200, 400), "alpha": (0.5, 1.0, 2.0)},
        make=_e2urec,
    ),
}
TUNED: Final = tuple(_SPACES)


def trials_of(name: str) -> list[Trial]:
    """Return the trials of a method; raises BenchmarkInputError for a method without trials."""
    if name not in _SPACES:
        known = ", ".join(TUNED)
        raise BenchmarkInputError(f"--method {name} has no trials. Choose from: {known}.")
    return _SPACES[name].trials()
