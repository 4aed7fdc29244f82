"""The files of a summary."""

SUMMARY_FILES = ["chapters.txt", "index.html", "storyboard.png", "summary.json", "summary.mp4", "summary.otio"]
SUMMARY_FILES += ["summary.srt"]
