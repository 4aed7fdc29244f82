"""Video files -> frames at 1 fps, by presentation time, decoded in worker processes. Knows no encoder: how frames are
resized and cropped comes as a `FrameTransform`.
"""
