"""From a video file to its summary: chosen seconds, skim, storyboard, page. Imports everything but `report`."""
