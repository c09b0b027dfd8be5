"""Look up unlearning methods by name. A new method is one file and one line in METHODS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.unlearning.apa import Apa
from models.unlearning.badt import BadTeacher
from models.unlearning.e2urec import E2URec, E2URecLong
from models.unlearning.e2urec_fast import E2URecFast
from models.unlearning.finetune import FineTune
from models.unlearning.neggrad import NegGrad
from models.unlearning.neggrad_calibrated import CalibratedNegGrad
from models.unlearning.npo import Npo
from models.unlearning.original import Original
from models.unlearning.receraser import RecEraser
from models.unlearning.retrain import Retrain
from models.unlearning.scrub import Scrub
from models.unlearning.simnpo import SimNpo
from models.unlearning.sisa import Sisa

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.unlearning.base import UnlearningMethod

METHODS: Final[dict[str, Callable[[], UnlearningMethod]]] = {
    method.name: method
    for method in (
        Original,
        Retrain,
        FineTune,
        NegGrad,
        CalibratedNegGrad,
        BadTeacher,
        E2URec,
        E2URecLong,
        E2URecFast,
        Npo,
        SimNpo,
        Scrub,
        Sisa,
        RecEraser,
        Apa,
    )
}


class UnknownMethodError(ValueError):
    """No unlearning method has this name."""


def get_method(name: str) -> UnlearningMethod:
    """Return the method with this name; raises UnknownMethodError, which lists the known names."""
    if name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise UnknownMethodError(f"unknown method {name!r}; known methods: {known}")
    return METHODS[name]()
