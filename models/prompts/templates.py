"""Write text prompts: the content of a prompt and the two templates that put it into words.

`published` is E2URec's "simple" template (arXiv 2403.03536, its data_preprocess scripts), including
the history printed as a Python list that counts from 0. `shared-prefix` is the product's template:
all instructions come before the candidate, so that prefix caching leaves only the title and the
answer cue to read per candidate. Both templates omit unknown user attributes.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from models.data.samples import LIKED_ABOVE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PUBLISHED: Final = "published"
SHARED_PREFIX: Final = "shared-prefix"
#: Maximum characters of a title, so that a long title cannot displace the rest of the prompt.
TITLE_LENGTH: Final = 200
_GENDERS: Final = {"F": "female", "M": "male"}
#: Words for coded attribute values, by attribute name.
_VALUE_WORDS: Final = {"gender": _GENDERS}
#: Unicode categories of control characters and of line and paragraph separators.
_BREAKS: Final = frozenset({"Cc", "Zl", "Zp"})


class UnknownWordingError(ValueError):
    """The template is not in WORDINGS."""

    def __init__(self, name: str) -> None:
        """List the known templates."""
        super().__init__(f"unknown wording {name!r}. Known: {', '.join(WORDINGS)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptContent:
    """The facts of one prompt: user attributes, rating history and the candidate's title.

    `history` has up to ten (title, half stars), oldest first. The published template uses only the
    `attributes` gender ("F" or "M"), occupation and age.
    """

    attributes: Mapping[str, str]
    history: tuple[tuple[str, int], ...]
    title: str

    def text(self, wording: str) -> str:
        """Return the prompt in the template `wording`; raises UnknownWordingError."""
        if wording not in WORDINGS:
            raise UnknownWordingError(wording)
        return WORDINGS[wording](self)


def title_of(title: str, item_index: int) -> str:
    """Return a title for prompts: one line, cut; its item number where the title is empty."""
    return one_line(title)[:TITLE_LENGTH] or f"number {item_index}"


def one_line(text: str) -> str:
    """Return the text with a single blank for each run of whitespace or control characters.

    Catalogs are untrusted input: a title with line breaks could pose as instructions.
    """
    if not text.isprintable():
        text = "".join(
            " " if unicodedata.category(character) in _BREAKS else character for character in text
        )
    return " ".join(text.split())


def _published(content: PromptContent) -> str:
    gender = _GENDERS.get(content.attributes.get("gender", ""))
    he, his = {"female": ("she", "Her"), "male": ("he", "His")}.get(
        gender or "", ("the user", "The user's")
    )
    profile = [f"The user is a {gender}."] if gender else []
    for name, word in (("occupation", "job"), ("age", "age")):
        if content.attributes.get(name):
            profile.append(f"{his} {word} is {one_line(content.attributes[name])}.")
    rated = [
        f"{number}. {title} ({_stars(half_stars)})"
        for number, (title, half_stars) in enumerate(content.history)
    ]
    return (
        (" ".join(profile) + "\n" if profile else "")
        + f"{he[0].upper()}{he[1:]} watched the following movies in order in the past, "
        f"and rated them:\n{rated}\n"
        f"Based on the movies {he} has watched, deduce if {he} will like the movie "
        f"***{content.title}***.\n"
        "Note that more stars the user rated the movie, the user liked the movie more.\n"
        "You should ONLY tell me yes or no."
    )


def _shared_prefix(content: PromptContent) -> str:
    """List each earlier title with its correct answer, so that the candidate continues the list.

    A pretrained model follows this pattern without fine-tuning: AUC .737 on 400 rows of
    ml-latest-small, against .581 with stars alone and a question after the history (SmolLM2-135M).
    """
    lines = ["Will this user like a title? Yes or No, and the stars given, oldest first."]
    profile = [
        one_line(f"{name} {_VALUE_WORDS.get(name, {}).get(value, value)}")
        for name, value in sorted(content.attributes.items())
        if value
    ]
    if profile:
        lines.append(f"About the user: {', '.join(profile)}.")
    for title, half_stars in content.history:
        answer = "Yes" if half_stars > 2 * LIKED_ABOVE else "No"
        lines.append(f"{title}: {answer}, {_stars(half_stars)}")
    return "\n".join([*lines, f"{content.title}:"])


def _stars(half_stars: int) -> str:
    return f"{half_stars / 2:g} star{'s' if half_stars > 2 else ''}"  # noqa: PLR2004 -- one star


WORDINGS: Final[Mapping[str, Callable[[PromptContent], str]]] = {
    PUBLISHED: _published,
    SHARED_PREFIX: _shared_prefix,
}
