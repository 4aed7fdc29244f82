"""Mini VideoXum, an embedded dataset of rendered videos in the published layout: `python -m data.mini OUT`.

Imported by tests and benchmarks only.
"""
