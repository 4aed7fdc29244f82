"""Annotations and features on disk -> records, samples and padded batches; readers of the datasets, downloads and
checks. Independent of models and metrics. Imports `utils`.
"""
