"""Find video files from the paths on a command line."""

import os
import pathlib
from collections.abc import Iterable

SUFFIXES = {
    *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}


def derive_video_id(path: str | os.PathLike) -> str:
    """Derive a video's id: the file's name without its suffix.

    Raises:
        ValueError: it is empty or dots.
    """
    stem = pathlib.Path(path).stem
    if stem in ("", ".", ".."):
        raise ValueError(f"{path}: videos: found the id {stem!r}, expected a name before the suffix")
    return stem


def find_videos(sources: Iterable[str | os.PathLike]) -> dict[str, pathlib.Path]:
    """List videos.

    Args:
        sources: paths, each a video file, a folder (searched with its subfolders for names with a video's suffix,
            except hidden ones) or a `.txt` file with one path per line (relative to the current folder, or to the
            folder of the list); blank lines and lines that begin with # are ignored.
    Returns:
        video id (see `derive_video_id`) -> path, ordered by id. Paths from a list need not exist.
    Raises:
        FileNotFoundError, ValueError: a source is missing or has no video, or two videos have the same id.
    """
    videos: dict[str, pathlib.Path] = {}
    for source in map(pathlib.Path, sources):
        if source.is_dir():
            paths = _in_folder(source)
        elif source.suffix.lower() == ".txt":
            paths = _in_list(source)
        elif source.exists():
            paths = [source]
        else:
            raise FileNotFoundError(f"{source}: videos: no such file or folder")
        if not paths:
            expected = "one path per line" if source.is_file() else f"files that end in {', '.join(sorted(SUFFIXES))}"
            raise ValueError(f"{source}: videos: found none, expected {expected}")
        for path in paths:
            video_id = derive_video_id(path)
            other = videos.setdefault(video_id, path)
            if os.path.realpath(other) != os.path.realpath(path):
                raise ValueError(
                    f"{path}: videos: found a second video of the name {video_id}, besides {other}, expected one; "
                    "rename one of them"
                )
    return dict(sorted(videos.items()))


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES)


def _in_list(source: pathlib.Path) -> list[pathlib.Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: videos: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: videos: not a list of paths ({error})") from None
    paths = [pathlib.Path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return [path if path.exists() or path.is_absolute() else _relative_to_list(source, path) for path in paths]


def _relative_to_list(source: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    candidate = source.parent / path
    return candidate if candidate.exists() else path
