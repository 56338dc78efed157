"""Words of a header that also name somebody, left out of what is said, however they are spelt or joined there."""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby, permutations

#: Headers in which somebody may be named, by name or number.
NAMING_TAGS = (
    "PatientID", "PatientName", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "PhysiciansOfRecord", "RequestingPhysician",
)  # fmt: skip
HIDDEN = "***"
#: Letters that Unicode does not take apart, and how they are written without their stroke or ligature.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
#: Other letters for an umlaut, with which it is also written plainly.
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
#: Fewest characters by which a part of a name hides a word that it stands in; fewer hide only the same word.
_LETTERS_INSIDE, _DIGITS_INSIDE, _SYLLABLES_INSIDE = 3, 4, 2
#: Fewest characters of a word that hide it where it stands in a part of a name.
_WORD_INSIDE = 4
#: Signs of Chinese, Japanese and Korean begin here: each says what several letters say elsewhere.
_SYLLABLES = "\u2e80"


def discreet(said: str, names: Iterable[str]) -> str:
    """Text of a header with every word left out that also names somebody in it.

    A word is compared without case and accents, `ü` as `u` and as `ue`. It names somebody if it is a part of a name or
    number, if such a part of 3 letters or 4 digits stands in it (`DoeJane`, `loc4711`), or if it stands in one itself.

    Args:
        said: e.g. a series' description.
        names: values of NAMING_TAGS.
    """
    said = unicodedata.normalize("NFC", said)
    same, inside = _parts(tuple(names))
    return "".join(
        HIDDEN if wordy and _names_somebody(token, same, inside) else token
        for wordy, token in ((wordy, "".join(signs)) for wordy, signs in groupby(said, _in_words))
    )


def _names_somebody(word: str, same: frozenset[str], inside: frozenset[str]) -> bool:
    return any(
        spelling in same
        or any(part in spelling for part in inside)
        or (len(spelling) >= _WORD_INSIDE and any(spelling in part for part in inside))
        for spelling in _spellings(word)
    )


@lru_cache(maxsize=64)
def _parts(names: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The parts of names in all spellings: those that hide the same word, and those that hide what they stand in."""
    parts: set[str] = set()
    for name in names:
        words = _words(unicodedata.normalize("NFC", name))
        parts.update(words)
        parts.update("".join(run) for word in words for _, run in groupby(word, str.isdigit))  # ID90210
        parts.update(
            first + second for first, second in permutations(words[:8], 2) if min(map(_weight, (first, second))) > 1
        )  # NgLi
    spelt = {spelling for part in parts if _weight(part) > 1 for spelling in _spellings(part)}
    return frozenset(spelt), frozenset(filter(_hides_what_it_stands_in, spelt))


def _weight(part: str) -> int:
    return len(part) + sum(sign >= _SYLLABLES for sign in part)


def _hides_what_it_stands_in(part: str) -> bool:
    if part.isdigit():
        return len(part) >= _DIGITS_INSIDE
    return len(part) >= (_SYLLABLES_INSIDE if max(part) >= _SYLLABLES else _LETTERS_INSIDE)


def _in_words(sign: str) -> bool:
    """Whether a sign is of a word: a letter, a digit, or a mark on one, as of Hindi's vowels."""
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


def _words(text: str) -> list[str]:
    return ["".join(signs) for wordy, signs in groupby(text, _in_words) if wordy]


def _spellings(word: str) -> set[str]:
    """A word in small letters without accents; with umlauts transcribed; and with such transcriptions undone."""
    small = unicodedata.normalize("NFC", word.casefold())
    plain = _bare(small)
    undone = plain.replace("ae", "a").replace("oe", "o").replace("ue", "u")
    return {plain, _bare(small.translate(_TRANSCRIBED)), undone if len(undone) >= _LETTERS_INSIDE else plain}


def _bare(small: str) -> str:
    apart = unicodedata.normalize("NFKD", small.translate(_LETTERS))
    return unicodedata.normalize("NFKC", "".join(c for c in apart if unicodedata.category(c) != "Mn")).casefold()
