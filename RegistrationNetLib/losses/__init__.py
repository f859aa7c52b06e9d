"""How alike two images are, and what a registration minimizes in each direction. Imports from `geometry`."""
