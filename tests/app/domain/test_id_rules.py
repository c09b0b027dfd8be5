"""Every spelling of an id has one normal form; titles keep their spelling."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.id_rules import IdRule, MalformedTextError, check_text, normal_id, spellings

RULES = st.sampled_from(IdRule)


@pytest.mark.parametrize(
    ("text", "rule", "normal"),
    [
        ("Ju\u0308rgen", IdRule.EXACT, "Jürgen"),
        (" 9042 ", IdRule.EXACT, "9042"),
        ("\u00a0\u2003ann\n", IdRule.EXACT, "ann"),
        ("Zoë 7", IdRule.EXACT, "Zoë 7"),
        ("BUZZ@Example.com", IdRule.EXACT, "BUZZ@Example.com"),
        (" BUZZ@Example.com", IdRule.EMAIL, "buzz@example.com"),
        ("JU\u0308RGEN@x", IdRule.EMAIL, "jürgen@x"),
        ("می\u200cخواهم", IdRule.EXACT, "می\u200cخواهم"),
        ("a\u0301" * 200, IdRule.EXACT, "á" * 200),
        ("x" * 200, IdRule.EXACT, "x" * 200),
    ],
)
def test_normal_form_of_a_spelling(text: str, rule: IdRule, normal: str) -> None:
    assert normal_id(text, rule) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\u00a0",
        "x" * 201,
        "\u0323\u0307" * 500_000,
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "\ud800",
        "a\u2028b",
        "a\u00a0b",
        "a\u202eb",
        "a\u200eb",
        "a\u2066b",
        "a\u061cb",
        "a\u200bb",
        "a\ufeffb",
        "a\u00adb",
    ],
)
def test_text_that_cannot_be_an_id_is_refused(text: str) -> None:
    with pytest.raises(MalformedTextError) as error:
        normal_id(text)
    assert not text.strip() or text not in str(error.value)


@given(st.text(max_size=40), RULES)
def test_normalizing_twice_changes_nothing(text: str, rule: IdRule) -> None:
    try:
        normal = normal_id(text, rule)
    except MalformedTextError:
        assume(False)
    assert normal_id(normal, rule) == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert normal_id(f" {unicodedata.normalize('NFD', normal)}\t", rule) == normal


@given(st.text(max_size=40), RULES)
def test_spellings_start_with_the_normal_form_and_include_the_text(text: str, rule: IdRule) -> None:
    found = spellings(text, rule)
    assert text in found
    try:
        assert found[0] == normal_id(text, rule)
    except MalformedTextError:
        assert found == (text,)


def test_normal_ascii_id_has_one_spelling() -> None:
    assert spellings("u1") == ("u1",)


@pytest.mark.parametrize(
    "text",
    ["Caf\u00e9\u00a0Noir", "می\u200cخواهم", "👩\u200d💻", "🏴\U000e0067\U000e0062\U000e007f", ""],
)
def test_title_keeps_its_spelling(text: str) -> None:
    assert check_text(text) == text


@pytest.mark.parametrize("text", ["a\x00", "a\nb", "a\u202eb", "\u2067a", "\ud800", "a\u2029"])
def test_title_with_controls_is_refused(text: str) -> None:
    with pytest.raises(MalformedTextError):
        check_text(text)
