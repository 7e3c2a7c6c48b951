"""Members that stand in many messages."""

from __future__ import annotations

from typing import Annotated, Literal

from teeth_protocol.shape import Items, Range, Text

ID_PATTERN = "[A-Za-z0-9._:-]{1,128}"
ID_WORDS = "1-128 of A-Z a-z 0-9 . _ : -"

Id = Annotated[str, Text(most=128, pattern=ID_PATTERN, words=ID_WORDS)]
Name = Annotated[str, Text(most=128)]
Version = Annotated[str, Text(most=64)]
BootId = Annotated[str, Text(most=64)]
Mac = Annotated[str, Text(most=64)]  # 17 characters on Ethernet, 59 on InfiniBand
Names = Annotated[tuple[Name, ...], Items(most=64)]
Word = Annotated[str, Text(least=0, most=64, cut=True)]
Bytes = Annotated[int, Range(least=0, most=2**53)]
Percent = Annotated[float, Range(least=0, most=100, clamp=True)]
# Anything longer than ten years is not an estimate.
Eta = Annotated[float, Range(least=0, most=10 * 365 * 86400, clamp=True)]
Grade = Literal["clear", "purge"]
