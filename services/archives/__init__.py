"""Pictures out of zip and tar archives that strangers send.

An archive is read in memory: nothing is written, no link is followed, nothing in it is unpacked in
its turn. The readers are our own because those of the standard library take in headers, directories
and compressed data of any size, and what an archive says of itself is not to be believed.
"""
