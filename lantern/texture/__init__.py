"""Making texture by copying from an exemplar: pixel by pixel, and block by block."""
