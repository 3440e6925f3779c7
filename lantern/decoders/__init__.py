"""Networks that turn the features of a vision network back into pictures."""
