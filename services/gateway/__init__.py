"""The gateway: the only process the outside talks to."""
