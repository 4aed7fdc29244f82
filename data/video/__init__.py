"""Video files -> frames at 1 fps, by presentation time, decoded in worker processes. Independent of the encoders: a
`FrameTransform` describes how to resize and crop.
"""
