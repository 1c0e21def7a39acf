"""Prepares, runs, stores and loads trainings."""
