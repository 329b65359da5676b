"""Finding the parts of a model and exchanging them, and telling the user how in their own code."""
