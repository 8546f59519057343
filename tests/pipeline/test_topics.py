"""Topic patterns match as RabbitMQ's topic exchange does, in bounded time, and say why they do not."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.topics import Pattern, PatternError, compile_pattern, matches, words_of

WORDS = st.sampled_from(["a", "b", "", "a", "b", "*", "#", "#", "ab"])
KEYS = st.lists(WORDS, max_size=8).map(".".join)


def oracle(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """The rules as one would say them, tried in every way."""

    @cache
    def from_(at: int, taken: int) -> bool:
        if at == len(pattern):
            return taken == len(key)
        if pattern[at] == "#":
            return any(from_(at + 1, more) for more in range(taken, len(key) + 1))
        return taken < len(key) and pattern[at] in ("*", key[taken]) and from_(at + 1, taken + 1)

    return from_(0, 0)


@given(KEYS, KEYS)
@pytest.mark.slow
@settings(max_examples=600, deadline=None)
def test_matching_follows_the_rules_for_any_pattern_and_key(pattern: str, key: str) -> None:
    assert matches(pattern, key) is oracle(words_of(pattern), words_of(key))


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("admin.workflow.paused", "admin.workflow.paused"),
        ("admin.workflow.*", "admin.workflow.paused"),
        ("admin.*.paused", "admin..paused"),
        ("*", "a"),
        ("*.*", "."),
        ("#", ""),
        ("#", "a.b.c"),
        ("#.#", ""),
        ("#.#", "a"),
        ("#.a", "a"),
        ("a.#", "a"),
        ("a.#.b", "a.b"),
        ("a.#.b", "a.b.b"),
        ("#.a.#", "b.a.c"),
        ("*.#", "a.b"),
        ("#.*", "a"),
        ("a.", "a."),
        (".a", ".a"),
        ("a.*", "a."),
        ("", ""),
        ("foo*", "foo*"),
        ("*", "#"),
    ],
)
def test_a_pattern_matches(pattern: str, key: str) -> None:
    assert matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("admin.workflow.*", "admin.workflow"),
        ("admin.workflow.*", "admin.workflow.paused.now"),
        ("*", ""),
        ("*", "a.b"),
        ("a", "a."),
        ("a.", "a"),
        ("*.#", ""),
        ("a.#", "b"),
        ("a.#", "ab.c"),
        ("foo*", "foobar"),
        ("foo#", "foobar"),
        ("A", "a"),
        ("", "a"),
        (" a", "a"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, key: str) -> None:
    assert not matches(pattern, key)


@pytest.mark.timeout(10)
def test_many_wildcards_take_no_exponential_time() -> None:
    """Which would be longer than anybody waits."""
    pattern = compile_pattern(".".join(["#", "a"] * 60) + ".b")
    key = ".".join("a" * 127)
    assert not pattern.matches(key)


def test_a_pattern_may_have_255_bytes_and_no_more() -> None:
    assert Pattern("ü" * 127 + "a").matches("ü" * 127 + "a")
    with pytest.raises(PatternError, match="at most 255 bytes, and this one has 256"):
        Pattern("ü" * 128)


def test_a_wildcard_inside_a_word_is_suspect() -> None:
    assert compile_pattern("admin.work*.#").suspects == ("work*",)
    assert compile_pattern("admin.*.#").suspects == ()


@pytest.mark.parametrize(
    ("pattern", "key", "reason"),
    [
        ("admin.workflow.*", "admin.workflow", "it has 2 words, and the pattern takes exactly 3"),
        ("admin.workflow.*", "", "it has no words, and the pattern takes exactly 3"),
        ("admin.workflow.*", "admin.bom.created", "word 2 is 'bom', not 'workflow'"),
        ("a.*.#.z", "a", "it has 1 word, and the pattern takes at least 3"),
        ("a.#.z", "a.b.c", "word 3 is 'c', not 'z'"),
        ("a.#.m.#.z", "a.b.z", "no words between agree with '#.m.#'"),
        ("a.#.m.#.z", "a.b.c.z", "no words between agree with '#.m.#'"),
        ("a.b", "a.b.", "it has 3 words, and the pattern takes exactly 2"),
    ],
)
def test_a_pattern_says_why_it_does_not_match(pattern: str, key: str, reason: str) -> None:
    assert compile_pattern(pattern).explain(key) == reason


@given(KEYS, KEYS)
@pytest.mark.slow
@settings(max_examples=300, deadline=None)
def test_every_non_match_has_a_reason_and_no_match_has_one(pattern: str, key: str) -> None:
    assert bool(compile_pattern(pattern).explain(key)) is not matches(pattern, key)
