"""Benchmarks of fastlt and of other libraries on this machine.

A benchmark measures its cases in turn, for several rounds, and returns a row for each case. The speed of a machine
drifts, so only ratios of cases within one run are meaningful.
"""
