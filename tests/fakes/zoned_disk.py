"""A zoned disk in memory that is as strict as any real one."""

from __future__ import annotations

from collections.abc import Sequence

from fakes.disks import MemoryDisk
from teeth_agent.errors import DeviceError
from teeth_agent.zoned import Zone


class ZonedDisk(MemoryDisk):
    """Full zones at first. Refuses writes that are not at a write pointer, that leave their zone's capacity,
    or that meet another in the same zone, and reads of what has no medium or has not been written."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        super().__init__("sdz", zones[-1].start + zones[-1].length)
        self.layout = tuple(zones)
        self.pointers = {zone.start: zone.start + zone.capacity for zone in zones}
        self.busy: set[int] = set()
        self.resets: list[int] = []

    def zones(self) -> tuple[Zone, ...]:
        return self.layout

    def reset_zones(self, offset: int, length: int) -> None:
        for zone in self.layout:
            if offset <= zone.start < offset + length:
                if not zone.in_order or zone.trouble:
                    raise DeviceError(f"zone at {zone.start}: reset refused", code="write_failed")
                with self.guard:
                    self.pointers[zone.start] = zone.start
                    self.resets.append(zone.start)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        zone = self._zone(offset, len(buffer), "write_failed")
        with self.guard:
            if zone.trouble or zone.start in self.busy:
                raise DeviceError(f"zone at {zone.start}: write refused", code="write_failed")
            if zone.in_order and offset != self.pointers[zone.start]:
                raise DeviceError(f"byte {offset} is not at the write pointer", code="write_failed")
            if zone.in_order:
                self.busy.add(zone.start)
        super().write_from(offset, buffer)
        with self.guard:
            if zone.in_order:
                self.pointers[zone.start] = offset + len(buffer)
                self.busy.discard(zone.start)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            zone = self._zone(offset + done, 1, "read_failed")
            end = self.pointers[zone.start] if zone.in_order else zone.start + zone.capacity
            if offset + done >= end:
                raise DeviceError(f"byte {offset + done} was not written", code="read_failed")
            done = min(end - offset, len(buffer))
        super().read_into(offset, buffer)

    def _zone(self, offset: int, length: int, code: str) -> Zone:
        for zone in self.layout:
            if zone.start <= offset and offset + length <= zone.start + zone.capacity:
                return zone
        raise DeviceError(f"{length} bytes at {offset} are in no zone", code=code)
