"""libzstd.so.1, which is in every Debian system for dpkg's sake, called without holding Python's lock.

The agent's only foreign library. Functions and numbers: zstd.h and zstd_errors.h, what is stable
since 1.4.
"""

from __future__ import annotations

import ctypes
from functools import cache

from teeth_agent.errors import AgentError

_WINDOW_LOG_MAX = 100  # ZSTD_d_windowLogMax
_WINDOW_TOO_LARGE = 16  # ZSTD_error_frameParameter_windowTooLarge
_RESET_SESSION = 1  # ZSTD_reset_session_only


class _Input(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


class _Output(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


class ZstdDecoder:
    """One decompressor; for one thread at a time. ``window_log``: windows above 2 to this power are refused.

    Buffers are memoryviews of writable memory, packed ones too. Every method raises AgentError: image_memory
    for a window that is too large, image_corrupt for data that are no zstd or do not have the checksum that
    they say, tool_missing where there is no libzstd.
    """

    def __init__(self, *, window_log: int) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.ZSTD_createDCtx())
        if self._context.value is None:
            raise AgentError("libzstd has no memory for a decompressor", code="image_memory")
        self._check(self._library.ZSTD_DCtx_setParameter(self._context, _WINDOW_LOG_MAX, window_log))

    def close(self) -> None:
        """Give its memory back; it cannot be used any more."""
        context, self._context = self._context, ctypes.c_void_p()
        self._library.ZSTD_freeDCtx(context)

    def frame(self, packed: memoryview, out: memoryview) -> int:
        """Unpack one whole frame, looking back at ``out`` itself: without a window. What it filled of it."""
        return self._check(
            self._library.ZSTD_decompressDCtx(
                self._context, _address(out), len(out), _address(packed), len(packed)
            )
        )

    def stream(self, packed: memoryview, out: memoryview) -> tuple[int, int, bool]:
        """Unpack what there is room and data for: bytes read, bytes filled, and whether a frame ended."""
        source = _Input(_address(packed), len(packed), 0)
        target = _Output(_address(out), len(out), 0)
        left = self._check(
            self._library.ZSTD_decompressStream(self._context, ctypes.byref(target), ctypes.byref(source))
        )
        return source.position, target.position, left == 0

    def reset(self) -> None:
        """The next call of ``stream`` begins a frame."""
        self._check(self._library.ZSTD_DCtx_reset(self._context, _RESET_SESSION))

    def _check(self, result: int) -> int:
        if not self._library.ZSTD_isError(result):
            return result
        said = self._library.ZSTD_getErrorName(result).decode(errors="replace")
        code = self._library.ZSTD_getErrorCode(result)
        raise AgentError(
            f"the image cannot be decompressed by zstd: {said}",
            code="image_memory" if code == _WINDOW_TOO_LARGE else "image_corrupt",
        )


def _address(view: memoryview) -> ctypes.c_void_p:
    # An empty buffer has no address, and needs none.
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(view)) if len(view) else None)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise AgentError(f"libzstd.so.1 cannot be loaded: {error}", code="tool_missing") from error
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    for name, result, arguments in (
        ("ZSTD_createDCtx", pointer, ()),
        ("ZSTD_freeDCtx", size, (pointer,)),
        ("ZSTD_DCtx_setParameter", size, (pointer, ctypes.c_int, ctypes.c_int)),
        ("ZSTD_DCtx_reset", size, (pointer, ctypes.c_int)),
        ("ZSTD_decompressDCtx", size, (pointer, pointer, size, pointer, size)),
        ("ZSTD_decompressStream", size, (pointer, pointer, pointer)),
        ("ZSTD_isError", ctypes.c_uint, (size,)),
        ("ZSTD_getErrorName", ctypes.c_char_p, (size,)),
        ("ZSTD_getErrorCode", ctypes.c_int, (size,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
