"""The demo's input, which needs no download: rendered rooms with exact geometry and language, and real pictures.

scene.py and paths.py say what a room holds, mjcf.py builds it, render.py and rays.py draw it, language.py speaks of
it; real.py reads photographs and clips inside packages; encoder.py and clusters.py make pseudo-classes of a pretrained
encoder's features; demo.py writes everything as shards, with what prepared.py does alike for every world. See
docs/worlds.md.
"""
