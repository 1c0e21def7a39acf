"""Measures speed beside other libraries, the effect of each ingredient of the recipe, and the temperature fit."""
