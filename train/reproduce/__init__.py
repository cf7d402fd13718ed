"""One published table row, one recipe: running it and setting measured beside published."""
