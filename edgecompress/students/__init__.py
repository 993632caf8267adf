"""Small network families that scale in width and depth."""
