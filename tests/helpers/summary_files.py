"""The files of a summary."""

SUMMARY_FILES = ["index.html", "storyboard.png", "summary.json", "summary.mp4"]
