"""Which images fit into the cache: arithmetic, before the first byte is fetched. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What a file takes beyond its own bytes: a block that is half full, its share of the tables.
_BLOCK = 4096
_OVERHEAD = 64 << 10
# Of memory. prepare_image: the writer's buffers and a decompressor, this much by its own bound and its tools.
PREPARE = 192 << 20
# run_image: kernel and initrds are read and loaded, so they are there twice.
LEAVE = 256 << 20
# The rest of this system: a twentieth of all memory, but not less than this.
_LEAST_SPARE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image to be cached; ``key`` names its content, so that two images with one content cost once."""

    key: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is in the cache. ``rank``: the higher, the sooner it may go."""

    key: str
    size: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``fits``: positions in the list of the wanted, in order; ``left_out``: position -> why; ``evict``: keys
    of what goes, in order."""

    fits: tuple[int, ...]
    left_out: Mapping[int, str]
    evict: tuple[str, ...]


def needed(size: int) -> int:
    """What a file of ``size`` bytes takes."""
    return -(-size // _BLOCK) * _BLOCK + _OVERHEAD


def memory_reserve(total: int) -> int:
    """What must stay free of a memory of ``total`` bytes for preparing an image and leaving for it."""
    return PREPARE + LEAVE + max(_LEAST_SPARE, total // 20)


def memory_budget(*, available: int, total: int, held: int) -> int:
    """For the cache in memory, what it has already (``held``) included."""
    return max(0, available + held - memory_reserve(total))


def plan(wanted: Sequence[Wanted], held: Sequence[Held], budget: int) -> Plan:
    """The wanted in order, each if it fits beside those before it; what is not wanted goes as room is needed.

    A smaller image may fit where a larger one before it did not.
    """
    used, fits, left_out, keys = 0, [], {}, set[str]()
    for index, image in enumerate(wanted):
        cost = 0 if image.key in keys else needed(image.size)
        if used + cost > budget:
            left_out[index] = f"needs {cost} bytes, {budget - used} of {budget} are left for it"
            continue
        used += cost
        keys.add(image.key)
        fits.append(index)
    # A wanted image that does not fit would have to be thrown out for those before it anyway.
    named = {image.key for image in wanted} - keys
    others = [one for one in held if one.key not in keys]
    evict = [one for one in others if one.key in named]
    rest = sorted((one for one in others if one.key not in named), key=lambda one: -one.rank)
    kept = sum(needed(one.size) for one in rest)
    for one in rest:
        if used + kept <= budget:
            break
        kept -= needed(one.size)
        evict.append(one)
    return Plan(fits=tuple(fits), left_out=left_out, evict=tuple(one.key for one in evict))
