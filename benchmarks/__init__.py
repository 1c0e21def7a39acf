"""Measures speed beside other libraries, and the effect of each ingredient of the training recipe."""
