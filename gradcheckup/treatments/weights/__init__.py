"""How large the weights of a net have to be at its start, and drawing them so."""
