"""Settings, files, downloads, logging, process group, signals, seeds and devices: modules that do not depend on videos,
models or metrics. Imports no other package of the project.
"""
