"""Weights on the disks of this machine."""
