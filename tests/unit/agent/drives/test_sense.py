"""Sense data against what the lab's models write, and against any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth.lab.drives import sense as lab
from teeth_agent.drives.sense import Sense, parse_sense

REGISTERS = st.builds(
    lab.AtaReturn,
    error=st.integers(0, 255),
    status=st.integers(0, 255).map(lambda value: value | 0x40),
    device=st.integers(0, 255),
    count=st.integers(0, 0xFFFF),
    lba=st.integers(0, (1 << 48) - 1),
    extend=st.just(True),
)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert isinstance(parse_sense(data), Sense)


@given(st.sampled_from([0x70, 0x71, 0x72, 0x73, 0xF0]), st.binary(max_size=260))
def test_no_bytes_behind_a_response_code_make_it_raise(code: int, data: bytes) -> None:
    sense = parse_sense(bytes((code,)) + data)
    assert sense.progress is None or 0.0 <= sense.progress < 1.0


@given(REGISTERS)
def test_a_descriptor_brings_every_register(registers: lab.AtaReturn) -> None:
    data = lab.Sense(key=lab.Key.RECOVERED_ERROR, ascq=0x1D, ata=registers).descriptor()
    sense = parse_sense(data)
    assert sense.codes == (1, 0, 0x1D)
    assert sense.ata is not None
    assert sense.ata.whole
    read = (sense.ata.error, sense.ata.status, sense.ata.device, sense.ata.count, sense.ata.lba)
    assert read == (registers.error, registers.status, registers.device, registers.count, registers.lba)
    assert sense.ata.lba_high is bool(registers.lba >> 24)
    assert sense.ata.count_high is bool(registers.count >> 8)


@given(REGISTERS)
def test_fixed_format_brings_low_halves_and_says_what_is_missing(registers: lab.AtaReturn) -> None:
    sense = parse_sense(lab.Sense(key=lab.Key.RECOVERED_ERROR, ascq=0x1D, ata=registers).fixed())
    assert sense.ata is not None
    assert (sense.ata.count, sense.ata.lba) == (registers.count & 0xFF, registers.lba & 0xFFFFFF)
    assert sense.ata.whole is (registers.count < 256 and registers.lba < 1 << 24)
    assert (sense.ata.count_high, sense.ata.lba_high) == (registers.count > 255, registers.lba >= 1 << 24)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 65535))
def test_information_and_progress_in_either_format(address: int, progress: int) -> None:
    made = lab.Sense(key=lab.Key.NOT_READY, asc=4, ascq=0x1B, information=address, progress=progress)
    for data in (made.fixed(), made.descriptor()):
        sense = parse_sense(data)
        assert sense.codes == (2, 4, 0x1B)
        assert sense.progress == progress / 65536
        if data[0] & 0x7F == 0x72 or address < 1 << 32:
            assert sense.information == address
        else:
            assert sense.information is None


def test_a_field_that_is_wrong() -> None:
    assert parse_sense(lab.invalid_field(4).fixed()).field == 4
    assert not parse_sense(lab.invalid_field(4).descriptor()).in_data
    wrong = parse_sense(lab.invalid_parameter(7).descriptor())
    assert (wrong.field, wrong.in_data) == (7, True)


def test_registers_that_got_lost_are_not_taken_for_zeros() -> None:
    """A translation from descriptor to fixed format keeps the codes and nothing else."""
    lost = parse_sense(lab.Sense(key=lab.Key.RECOVERED_ERROR, ascq=0x1D).fixed())
    assert lost.codes == (1, 0, 0x1D)
    assert lost.ata is None
    assert parse_sense(bytes(14)).readable is False


@pytest.mark.parametrize("code", [0x71, 0x73])
def test_a_deferred_error_is_told_from_this_commands(code: int) -> None:
    made = lab.Sense(key=lab.Key.MEDIUM_ERROR, asc=0x11)
    data = made.fixed() if code == 0x71 else made.descriptor()
    assert parse_sense(bytes((code,)) + data[1:]).deferred


def test_what_the_additional_length_does_not_cover_was_not_sent() -> None:
    data = lab.unrecovered_read(1000).fixed()
    cut = parse_sense(data[:7] + b"\0" + data[8:])
    assert cut.codes == (3, 0, 0)
    assert cut.information == 1000
