"""Simulated drives: SCSI and SATA disks that real tools drive with their whole command set, and that can lie.

The models (`scsi`, `sata` and what they are made of) are sans-IO: a command goes in, an answer comes out, and
time is a function that is passed in. `target` and `server` put them behind iSCSI.
"""
