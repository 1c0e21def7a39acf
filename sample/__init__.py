"""Draws the built-in sample: the fifteen HAR actions as scenes with people."""
