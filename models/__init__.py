"""VTSUM-BLIP and its parts, frame encoders, VT-CLIP, losses, generation, and loading of checkpoints. Functions of
tensors: independent of data files, metrics and configurations. Imports `utils`.
"""
