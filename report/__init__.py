"""Reports of runs: results, comparisons, HTML reports and model cards. Independent of models and video files. Imports
`utils`, `data`, `metrics` and `engine`.
"""
