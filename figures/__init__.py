"""Draws numbers that other rooms computed; needs no display."""
