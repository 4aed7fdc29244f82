"""The caption decoders by name."""

from collections.abc import Callable

from models.blip_decoder import build_blip_decoder
from models.caption_decoder import CaptionDecoder, CaptionDecoderOptions
from models.causal_lm import build_causal_lm_decoder

# Name -> function that builds a decoder from the options and D, the width of the frame states.
CAPTION_DECODERS: dict[str, Callable[[CaptionDecoderOptions, int], CaptionDecoder]] = {
    "blip": build_blip_decoder,
    "causal_lm": build_causal_lm_decoder,
}
