"""Settings, files, downloads, logging, processes, signals, seeds and devices: leaf modules without any knowledge of
videos, models or metrics. Imports nothing else of the project.
"""
