"""Runs: configurations, training, evaluation, feature extraction, checkpoints of a run, predictions and scoring.
Combines data, models and metrics; independent of summaries and reports. Imports `utils`, `data`, `models`, `metrics`.
"""
