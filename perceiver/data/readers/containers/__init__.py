"""Containers of sound and video: which one a file is, the lengths that its headers claim, and the sound in it."""
