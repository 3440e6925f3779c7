"""Lantern: see what a vision network sees, and paint with it."""

__version__ = "0.1.0"
