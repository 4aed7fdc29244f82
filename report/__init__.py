"""What runs left: results read back, compared, shown as an HTML report and as a model card.

Imports `utils`, `data`, `metrics` and `engine`; knows nothing of models and of video files.
"""
