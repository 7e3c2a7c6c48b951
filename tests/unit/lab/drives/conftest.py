"""Simulated drives below real tools, for the tests of each lie and each fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.sgio_bridge import build_shim
from fakes.tool_bench import ToolBench, tool_bench


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that leads a tool's SG_IO to a simulated drive."""
    library = build_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler")
    return library


@pytest.fixture
def benches(shim: Path, tmp_path: Path) -> Iterator[Callable[..., ToolBench]]:
    """``benches(kind, *behaviours, **spec)``: one more drive; all end with the test."""
    with ExitStack() as stack:

        def make(kind: str, *behaviours: str, **spec: Any) -> ToolBench:
            folder = tmp_path / f"d{len(list(tmp_path.iterdir()))}"
            return stack.enter_context(tool_bench(shim, folder, kind, *behaviours, **spec))

        yield make
