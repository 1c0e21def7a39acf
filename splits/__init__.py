"""Scans images, finds duplicates and splits a dataset into training, validation and test."""
