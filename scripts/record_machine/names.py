"""Words that name one machine, and made-up ones of the same shape for them."""

from __future__ import annotations

import hashlib
import re
from typing import Dict, List, Tuple

# Serial numbers that are none: they say nothing of the machine, and readers must cope with them.
PLACEHOLDER = re.compile(
    r"^(?:0+|f+|x+|none|n/?a|unknown|default string|to be filled.*|not (?:specified|available|present).*"
    r"|(?:system|chassis|base board) serial number|.*asset tag.*|0?123456789.*|no dimm|serial\d*|\W*"
    r"|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])$",
    re.IGNORECASE,
)
NO_UUID = (
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
)
HEXADECIMAL = re.compile(r"[0-9a-fA-F]{12,}|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2})+|[0-9a-fA-F-]{36}")
WWN = re.compile(r"[2356][0-9a-f]{15}(?:[0-9a-f]{16})?", re.IGNORECASE)
MAKER = 7  # digits: the name's kind and the maker's number
LEAST = 4  # shorter words are everywhere by chance


def like(key: bytes, word: str, keep: int) -> str:
    """A word of the same shape: digits for digits, letters for letters; the first ``keep`` characters stay.

    The same for the same key and word, whatever the case.
    """
    stream = hashlib.shake_256(key + word.lower().encode()).digest(len(word) + 1)
    alphabet = "0123456789abcdef" if HEXADECIMAL.fullmatch(word) else "abcdefghjklmnpqrstuvwxyz"
    made = word[:keep]
    for at, char in enumerate(word[keep:], keep):
        if not char.isascii() or not char.isalnum():
            made += char
        elif char.isdigit() and len(alphabet) > 16:
            made += "0123456789"[stream[at] % 10]
        else:
            letter = alphabet[stream[at] % len(alphabet)]
            made += letter.upper() if char.isupper() else letter
    return made


class Names:
    """The words found so far; once frozen, ``text`` and ``raw`` put the made-up ones in their place."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.words: Dict[str, str] = {}
        self._whole: Dict[str, str] = {}
        self._forms: Dict[str, str] = {}
        self._bytes: List[Tuple[bytes, bytes]] = []
        self._pattern = re.compile(r"(?!)")

    def add(self, word: str, keep: int = 0) -> None:
        """``keep`` characters at the front name a maker, not a piece."""
        word = word.strip(" \0\n\t")
        if len(word) >= LEAST and not PLACEHOLDER.match(word) and word.lower() not in NO_UUID:
            # A SCSI drive's serial number may be its WWN, of which the front names the maker (SPC-4 7.8.5.6).
            keep = max(keep, MAKER if WWN.fullmatch(word) else 0)
            self.words.setdefault(word, like(self.key, word, keep))

    def freeze(self) -> None:
        """No more words are added. The longest come first, so that none is replaced in part."""
        patterns = []
        for word in sorted(self.words, key=len, reverse=True):
            made = self.words[word]
            self._whole[word.lower()] = made
            if is_plain(word):
                continue
            edge = "" if len(word) >= 8 else "[A-Za-z0-9]"
            for old, new in forms(word, made):
                if old.lower() not in self._forms:
                    self._forms[old.lower()] = new
                    patterns.append(f"(?<!{edge}){re.escape(old)}(?!{edge})" if edge else re.escape(old))
            digits, others = re.sub("[-:]", "", word), re.sub("[-:]", "", made)
            if HEXADECIMAL.fullmatch(word) and len(digits) % 2 == 0:
                self._bytes.append((bytes.fromhex(digits), bytes.fromhex(others)))
        patterns.sort(key=len, reverse=True)
        if patterns:
            self._pattern = re.compile("|".join(patterns), re.IGNORECASE)

    def text(self, text: str) -> str:
        """``text`` with every word replaced, in whatever case and spelling it stands there."""
        whole = self._whole.get(text.strip().lower())
        if whole is not None:
            return text.replace(text.strip(), cased(whole, text.strip()))
        return self._pattern.sub(lambda found: cased(self._forms[found.group().lower()], found.group()), text)

    def raw(self, data: bytes) -> bytes:
        """The same for bytes, where a name in hexadecimal may also stand as the bytes that it spells."""
        for old, new in self._bytes:
            data = data.replace(old, new)
        return self.text(data.decode("latin-1")).encode("latin-1")

    def left_in(self, text: str) -> List[str]:
        """Words that still stand in ``text``, but for those too plain to be looked for."""
        if not self._forms:
            return []
        made = {new.lower() for new in self._forms.values()}
        return sorted({one.lower() for one in self._pattern.findall(text)} - made)


def is_plain(word: str) -> bool:
    """Whether it may well stand where it is no name: such a one is replaced only where it stands alone."""
    return len(word) < 10 and (word.isalpha() or word.isdigit())


def forms(word: str, made: str) -> List[Tuple[str, str]]:
    """How udev and the kernel spell a word: as it is, blanks as _ or \\x20, its bytes in hexadecimal, without
    what separates its digits."""
    found = [(word, made)]
    if " " in word:
        found += [(word.replace(" ", "_"), made.replace(" ", "_"))]
        found += [(word.replace(" ", "\\x20"), made.replace(" ", "\\x20"))]
    if word.isascii() and len(word) >= 6:
        found += [(word.encode().hex(), made.encode().hex())]
    if HEXADECIMAL.fullmatch(word) and re.search("[-:]", word):
        found += [(re.sub("[-:]", "", word), re.sub("[-:]", "", made))]
    return found


def cased(made: str, like_this: str) -> str:
    if like_this.islower():
        return made.lower()
    return made.upper() if like_this.isupper() else made
