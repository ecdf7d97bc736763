"""One script per claim; each prints the table that the docs show. Run from the repository root."""
