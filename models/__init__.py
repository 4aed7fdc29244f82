"""VTSUM-BLIP and its parts, frame encoders, VT-CLIP, losses, generation, and checkpoints -> parameters. Tensors in,
tensors out: knows neither files of data nor metrics nor configurations. Imports `utils`.
"""
