"""Linen modules, one file per architecture."""
