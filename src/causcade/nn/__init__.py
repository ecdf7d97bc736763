"""Network blocks on plain torch: attention along the axes of a grid, the cell network and the pair network."""
