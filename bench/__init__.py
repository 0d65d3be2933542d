"""Measurements, each with the command that repeats it. Not tests: nothing here passes or fails on a time."""
