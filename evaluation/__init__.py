"""Measures predictions: metrics, calibration, bootstrap intervals, and the report of a test."""
