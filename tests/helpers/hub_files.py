"""Files of the published repositories, served by the loopback hub."""

import zipfile

import torch

from data import check, download

DATASET_REPOSITORY = "datasets/jylins/videoxum"
WEIGHTS_REPOSITORY = "jylins/vtsum_blip"
COUNTS = dict(train=33, val=3, test=7)  # of `mini_root`


def serve_dataset(hub, mini_root, folder, monkeypatch):
    """Serve mini VideoXum in the dataset's repository; files in its archives are in nested folders."""
    for path in (mini_root / "anno").iterdir():
        hub.files[DATASET_REPOSITORY, path.name] = path.read_bytes()
    for part, (name, _) in check.FEATURES.items():
        with zipfile.ZipFile(folder / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for i, path in enumerate(sorted((mini_root / "feat" / name).iterdir())):
                archive.write(path, f"some/{part}/{i % 2}/{path.name}")
        hub.files[DATASET_REPOSITORY, f"{part}.zip"] = (folder / "made.zip").read_bytes()
    for module in (check, download):
        monkeypatch.setattr(module, "NUM_VIDEOS", COUNTS)


def serve_weights(hub, mini_root, mini_model, folder):
    """Serve small untrained models and the VT-CLIP of mini VideoXum as the published weights."""
    for name, version in dict(vtsum_tt="vtsum_blip_tt", vtsum_tt_ca="vtsum_blip_tt_ca").items():
        torch.save(dict(model=mini_model(version).state_dict()), folder / "made.pth")
        hub.files[WEIGHTS_REPOSITORY, f"{name}.pth"] = (folder / "made.pth").read_bytes()
    hub.files[WEIGHTS_REPOSITORY, "vt_clip.pth"] = (mini_root / "vt_clip.pth").read_bytes()
