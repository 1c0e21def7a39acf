"""Runs the frozen backbone once per image and caches its feature maps on disk."""
