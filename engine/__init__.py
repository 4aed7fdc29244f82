"""What joins data, models and metrics: configurations, training, evaluation, feature extraction, checkpoints of a run,
predictions and their scoring. Knows nothing of summaries and reports. Imports `utils`, `data`, `models`, `metrics`.
"""
