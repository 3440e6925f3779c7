"""Fast style transfer: image transformation networks, the library of trained ones, training."""
