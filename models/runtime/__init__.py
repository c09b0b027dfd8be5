"""Devices, precision, memory limits, process groups and progress bars."""
