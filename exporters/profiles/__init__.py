"""Ways of writing NIR, each a list of passes over a graph: portable, and those of single readers."""
