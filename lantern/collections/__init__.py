"""Sets of pictures with a name, for techniques that read many."""
