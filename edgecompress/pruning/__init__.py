"""Remove what matters little: channels, heads, blocks, weights; what is left is data."""
