"""Measure on a phone or board that stands elsewhere, over ssh or adb."""
