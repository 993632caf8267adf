"""The whole chain, from the recipe to the answer."""
