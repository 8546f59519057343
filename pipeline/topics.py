"""Topic patterns: which routing keys a pattern matches, exactly as RabbitMQ's topic exchange decides it.

A routing key is words joined by dots. In a pattern the word ``*`` stands for exactly one word, the empty word
included, and ``#`` for any number of words, none included; any other word stands for itself, also where it merely
contains one of these signs (``foo*``). The empty key has no words; ``.`` has two empty ones. Nothing is trimmed, and
case counts. The rules are those of RabbitMQ 4's ``rabbit_exchange_type_topic``, and are compared with a running broker
in the integration tests.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["MAX_BYTES", "Pattern", "PatternError", "compile_pattern", "matches", "words_of"]

ONE = "*"
ANY = "#"
MAX_BYTES = 255
"""The longest pattern and routing key, in bytes of UTF-8: an AMQP 0.9.1 short string."""


class PatternError(ValueError):
    """The text is no topic pattern: no binding of a broker could hold it."""


class Pattern:
    """One topic pattern, ready to match.

    Attributes:
        text: The pattern as it was written.
        words: Its words.
    """

    __slots__ = ("_chain", "_literal", "text", "words")

    def __init__(self, text: str) -> None:
        """Raises `PatternError` where the text is longer than `MAX_BYTES`."""
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_BYTES:
            raise PatternError(f"a pattern has at most {MAX_BYTES} bytes, and this one has {size}")
        self.text = text
        self.words = words_of(text)
        self._literal = ONE not in self.words and ANY not in self.words
        self._chain = _without_repeated_any(self.words)

    @property
    def suspects(self) -> tuple[str, ...]:
        """Words that contain a wildcard's sign and yet stand for themselves: most likely a mistake."""
        return tuple(word for word in self.words if len(word) > 1 and (ONE in word or ANY in word))

    def matches(self, key: str) -> bool:
        """Whether the pattern matches this routing key; takes at most words × words steps, whatever the pattern."""
        if self._literal:
            return key == self.text
        return _matches(self._chain, words_of(key))

    def explain(self, key: str) -> str:
        """Why the pattern does not match this routing key, in words for people; empty where it does."""
        return "" if self.matches(key) else _difference(self.words, words_of(key))

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def words_of(key: str) -> tuple[str, ...]:
    """The words of a routing key or pattern; the empty text has none."""
    return tuple(key.split(".")) if key else ()


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Pattern:
    """The pattern of this text. Raises `PatternError`."""
    return Pattern(text)


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern matches a routing key. Raises `PatternError` where it is none."""
    return compile_pattern(pattern).matches(key)


def _without_repeated_any(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for index, word in enumerate(words) if word != ANY or index == 0 or words[index - 1] != ANY)


def _matches(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """Greedy matching with one point of return: only the last ``#`` ever needs to take more words."""
    at, taken = 0, 0
    retry_at, retry_taken = -1, 0
    while taken < len(key):
        if at < len(pattern) and pattern[at] == ANY:
            retry_at, retry_taken = at, taken
            at += 1
        elif at < len(pattern) and pattern[at] in (ONE, key[taken]):
            at += 1
            taken += 1
        elif retry_at >= 0:
            retry_taken += 1
            at, taken = retry_at + 1, retry_taken
        else:
            return False
    return all(word == ANY for word in pattern[at:])


def _difference(pattern: tuple[str, ...], key: tuple[str, ...]) -> str:
    """The first thing that a reader of both would see."""
    if ANY not in pattern and len(pattern) != len(key):
        return f"it has {_count(key)}, and the pattern takes exactly {len(pattern)}"
    fewest = sum(word != ANY for word in pattern)
    if len(key) < fewest:
        return f"it has {_count(key)}, and the pattern takes at least {fewest}"
    head = pattern.index(ANY) if ANY in pattern else len(pattern)
    for index in range(head):
        if pattern[index] not in (ONE, key[index]):
            return f"word {index + 1} is {key[index]!r}, not {pattern[index]!r}"
    tail = len(pattern) - 1 - pattern[::-1].index(ANY)  # a literal head that agrees leaves only patterns with '#'
    for index in range(1, len(pattern) - tail):
        if pattern[-index] not in (ONE, key[-index]):
            return f"word {len(key) - index + 1} is {key[-index]!r}, not {pattern[-index]!r}"
    return f"no words between agree with {'.'.join(pattern[head : tail + 1])!r}"


def _count(words: tuple[str, ...]) -> str:
    return {0: "no words", 1: "1 word"}.get(len(words), f"{len(words)} words")
