"""Annotations and features on disk -> records, samples and padded batches; readers of each data set, its download and
its check. Knows neither models nor metrics. Imports `utils`.
"""
