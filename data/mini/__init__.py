"""Mini VideoXum, an embedded data set of rendered videos in the published layout: `python -m data.mini OUT`.

Imported by tests and benchmarks alone.
"""
