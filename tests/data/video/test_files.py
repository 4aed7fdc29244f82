import pytest

from data.video.files import find_videos


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "notes.json", ".hidden.mp4", "deep/c.webm", ".git/d.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def test_videos_in_folders_files_and_lists(folder, tmp_path, monkeypatch):
    assert list(find_videos([folder])) == ["a", "b", "c"]
    assert find_videos([folder / "b.mp4"]) == {"b": folder / "b.mp4"}
    (folder / "list.txt").write_text(f"# comment\nb.mp4\n\n{folder}/deep/c.webm\nmissing.mp4\n")
    videos = find_videos([folder / "list.txt"])
    assert list(videos) == ["b", "c", "missing"]
    assert videos["b"] == folder / "b.mp4"
    monkeypatch.chdir(folder)
    assert str(find_videos(["list.txt"])["b"]) == "b.mp4"
    assert list(find_videos([folder, folder / "b.mp4"])) == ["a", "b", "c"]
    (folder / "deep/again").symlink_to(folder / "deep")
    assert list(find_videos([folder])) == ["a", "b", "c"]
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfb.mp4\r\na.MKV\r\n")
    assert find_videos(["bom.txt"])["b"].exists()


def test_invalid_sources_raise(folder, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "...mp4").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "deep/b.avi").touch()
    for source, message in {
        "gone": "gone: videos: no such file or folder",
        "gone.txt": "gone.txt: videos: no such file",
        "none": r"none: videos: found none, expected files that end in \.3gp, ",
        "empty.txt": "empty.txt: videos: found none, expected one path per line",
        "bytes.txt": "bytes.txt: videos: not a list of paths",
        "...mp4": r"\.\.\.mp4: videos: found the id '\.\.', expected a name before the suffix",
        "videos": r"b.avi: videos: found a second video of the name b, besides .*b.mp4, .*; rename one of them$",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            find_videos([tmp_path / source])
