"""The kinds of artifacts; all are had from `lantern.artifact`."""
