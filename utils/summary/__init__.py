"""From saliency to a visual summary: which seconds, the skim, the storyboard, the page."""

from utils.summary.page import draw_curve, write_page
from utils.summary.selection import METHODS, check_choice, choose, segments_of
from utils.summary.skim import write_skim
from utils.summary.storyboard import Storyboard

__all__ = ["METHODS", "Storyboard", "check_choice", "choose", "draw_curve", "segments_of", "write_page", "write_skim"]
