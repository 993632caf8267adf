"""Remove channels that matter little, and remember which as data."""
