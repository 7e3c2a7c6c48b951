"""What the ramdisk may weigh. Growth is a decision: who exceeds the budget raises it here, with a reason."""

from __future__ import annotations

from teeth.errors import TeethError

# Bytes of the initramfs by recipe; measured when it was set, plus a fifth.
BUDGETS = {"ramdisk": 52_000_000, "ramdisk-debug": 54_000_000}


def check_budget(recipe: str, initramfs_bytes: int, largest: str) -> None:
    """Raise TeethError when the initramfs of ``recipe`` is larger than its budget (no budget: no limit).

    ``largest`` names the biggest contributor, for the message.
    """
    budget = BUDGETS.get(recipe)
    if budget is not None and initramfs_bytes > budget:
        raise TeethError(
            f"the initramfs of {recipe} has {initramfs_bytes / 1e6:.1f} MB, "
            f"its budget is {budget / 1e6:.1f} MB",
            hint=f"largest contributor: {largest}; the budget is in src/teeth/build/budget.py",
        )
