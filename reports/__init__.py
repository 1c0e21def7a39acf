"""Writes self-contained HTML pages about a training, a test, and a comparison of runs."""
