"""The GUID partition table of a device (``teeth_image.gpt`` parses it, sgdisk writes it)."""

from __future__ import annotations

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import image_errors
from teeth_image import gpt


def read(device: Device) -> gpt.Table:
    """The primary table. Raises AgentError(partition_table) if there is none or it is damaged."""
    head = aligned_buffer(min(gpt.HEAD, device.size - device.size % device.logical_block))
    device.read_into(0, head)
    with image_errors():
        return gpt.parse(bytes(head), device.logical_block)
