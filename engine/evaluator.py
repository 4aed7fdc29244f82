"""Predict the splits of a data set and score the predictions."""

import concurrent.futures
import logging
import math
import pathlib
import time

import torch

from data.dataset import VideoXum
from data.loaders import EvalBatches, make_loader
from engine.predictions import Unfinished, write_predictions
from engine.scoring import format_table, score_predictions, write_scores
from engine.setup import annotation_file
from metrics.alignment import vt_clip_score
from metrics.captions import require_java, start_meteor
from models.vt_clip import load_vt_clip
from models.vtsum_blip import POSITIONS, WIDTHS
from models.weights import weights_sha256
from utils import distributed, interrupt
from utils.device import autocast
from utils.download import is_url
from utils.files import sha256_of
from utils.log import progress_bar
from utils.versions import versions

logger = logging.getLogger(__name__)


class Evaluator:
    """What scoring needs, checked and loaded before the first epoch.

    Args:
        config: `Config`.
        world: `distributed.World`.
    Raises:
        FileNotFoundError, ValueError: annotations, features, Java or VT-CLIP are missing or bad.
    """

    def __init__(self, config, world):
        self.config, self.world = config, world
        if config.task != "v2v":
            require_java()
        clip_root = pathlib.Path(config.clip_root) if config.clip_root else None
        if clip_root is not None and not clip_root.is_dir():
            clip_root = None
        self.vt_clip = self._load_vt_clip(clip_root)
        self.vt_clip_sha256 = None if self.vt_clip is None else weights_sha256(self.vt_clip)
        self.datasets = {split: self._dataset(split, clip_root) for split in config.splits}
        self.baselines = {}  # split -> scores of chance and of the annotators: the same at each evaluation

    def _load_vt_clip(self, clip_root):
        """Load the scorer, or say once why VT-CLIPScore is left out."""
        config = self.config
        if config.task != "v2vt":
            reason = f"task {config.task} gives only one of the two summaries"
        elif clip_root is None:
            reason = f"clip_root: no folder {config.clip_root!r}"
        elif not is_url(config.pretrained_clip) and not pathlib.Path(config.pretrained_clip).is_file():
            reason = f"pretrained_clip: no file {config.pretrained_clip!r}"
        else:
            with distributed.local_main_first(self.world):
                return load_vt_clip(config.pretrained_clip).to(self.world.device)
        logger.warning("VT_CLIPScore is left out: %s", reason)
        return None

    def _dataset(self, split, clip_root):
        config = self.config
        dataset = VideoXum(
            annotation_file(config, split),
            config.video_embeddings_root,
            width=WIDTHS[config.vit],
            prompt=config.prompt,
            clip_root=clip_root,
            clip_width=None if self.vt_clip is None else self.vt_clip.width,
        )
        dataset[0]  # features of another width are found now, not after training
        return dataset

    @torch.no_grad()
    def predict(self, model, split, unfinished):
        """Summarise this process's share of what is left of a split.

        Args:
            model: `VTSumBLIP`.
            split: name.
            unfinished: `Unfinished`; takes the predictions, batch by batch.
        Returns:
            list of (index, prediction), see `predictions_{split}.jsonl`; with those made before on the first process.
        """
        config, world, dataset = self.config, self.world, self.datasets[split]
        known = unfinished.read()
        if known:
            logger.info("%s: %d of %d videos were predicted before", split, len(known), len(dataset))
        lengths = [dataset.num_frames(i) for i in range(len(dataset))]
        place = dict(rank=world.rank, world_size=world.size)
        batches = EvalBatches(lengths, config.batch_size, alone_above=POSITIONS, known=known, **place)
        loader = make_loader(
            dataset, batches, num_workers=config.num_workers, pad_id=0, pin_memory=world.device.type == "cuda"
        )
        predictions = list(known.items()) if world.is_main else []
        with progress_bar(loader, world.is_main, desc=f"predict {split}", unit="batch") as bar:
            for batch in bar:
                new = self._predict_batch(model, batch.to(world.device))
                unfinished.add(new)
                predictions += new
                if interrupt.requested():
                    break
        unfinished.close()
        return predictions

    def _predict_batch(self, model, batch):
        config = self.config
        with autocast(config.precision, self.world.device):
            captions, saliency = model.generate(
                batch.video_embeddings,
                batch.video_mask,
                num_beams=config.num_beams,
                max_length=config.max_text_length,
                min_length=config.min_text_length,
            )
        B, rows, clip = len(batch.lengths), None, None
        if saliency is not None:
            scores = saliency.view(B, -1)  # (B, T)
            rows = [row[:length] for row, length in zip(scores.tolist(), batch.lengths)]
            for video_id, row in zip(batch.video_ids, rows):
                if not all(map(math.isfinite, row)):
                    raise FloatingPointError(f"video {video_id}: saliency: found NaN or infinity in the model's output")
        if self.vt_clip is not None:
            text = self.vt_clip.encode_text(captions)  # (B, C)
            clip = vt_clip_score(scores, batch.lengths, batch.clip_vision, text).tolist()
        predictions = []
        for i, video_id in enumerate(batch.video_ids):
            entry = dict(
                video_id=video_id,
                caption=None if captions is None else captions[i],
                saliency=None if rows is None else rows[i],
                vt_clip_score=None if clip is None else clip[i],
            )
            if batch.lengths[i] != batch.num_labels[i]:
                entry["cut_from"] = batch.num_labels[i]
            predictions.append((batch.indices[i], entry))
        return predictions

    def evaluate(self, model, *, checkpoint=None, trained_with=None):
        """Predict and score the configuration's splits; the first process writes all files.

        Args:
            model: `VTSumBLIP` (not wrapped), the same weights on every process.
            checkpoint: path of the weights' file; its hash goes into the results.
            trained_with: the configuration that it says it was trained with, if that is not this one.
        Returns:
            dictionary from split to results on the first process, empty on the others.
        """
        origin = dict(
            config=self.config.as_dict(),
            trained_with=trained_with,
            processes=self.world.size,
            vt_clip_sha256=self.vt_clip_sha256,
            versions=versions(),
            checkpoint_sha256=sha256_of(checkpoint) if checkpoint and self.world.is_main else None,
        )
        if self.world.is_main and self.config.task != "v2v":
            start_meteor()
        weights, scoring = weights_sha256(model), {}
        beside = concurrent.futures.ThreadPoolExecutor(1)  # a split is scored while the next one is predicted
        try:
            for split in self.config.splits:
                unfinished = self._unfinished(split, weights)
                gathered = distributed.gather_objects(self.predict(model, split, unfinished), self.world)
                self._stop_together()
                for future in scoring.values():
                    if future.done():
                        future.result()  # a failure ends the run now
                if self.world.is_main:
                    predictions = dict(pair for part in gathered for pair in part)
                    scoring[split] = beside.submit(self._score, split, predictions, origin, unfinished)
            while distributed.any_of(not all(future.done() for future in scoring.values()), self.world):
                self._stop_together()
                time.sleep(0.1)
            results = {split: future.result() for split, future in scoring.items()}
        finally:
            beside.shutdown(wait=False, cancel_futures=True)
        return results

    def _unfinished(self, split, weights):
        """Where the split's predictions are kept, which count for the same weights, settings and data alone."""
        config, dataset = self.config.as_dict(), self.datasets[split]
        names = ("model", "task", "kernel_size", "prompt", "max_text_length", "min_text_length", "num_beams")
        names += ("precision", "tf32")
        made_with = {name: config[name] for name in names} | dict(weights=weights, versions=versions())
        made_with["annotations"] = dataset.fingerprint()
        made_with["vt_clip"] = self.vt_clip_sha256
        made_with["features"] = dataset.stamps()
        return Unfinished(pathlib.Path(self.config.output_dir, "unfinished"), split, made_with, self.world)

    def _stop_together(self):
        """Raise `Interrupted` on all processes where a signal has asked one of them to end."""
        if distributed.any_of(bool(interrupt.requested()), self.world):
            raise interrupt.Interrupted(interrupt.requested() or "a signal to another process")

    def _score(self, split, predictions, origin, unfinished):
        records = self.datasets[split].records
        assert sorted(predictions) == list(range(len(records))), "a video was lost or invented"
        predictions = [predictions[i] for i in range(len(records))]
        write_predictions(self.config.output_dir, split, predictions, records)
        results, scores = score_predictions(predictions, records, self.baselines.get(split))
        self.baselines[split] = results["baselines"]
        results |= origin
        write_scores(self.config.output_dir, split, results, scores)
        unfinished.remove()
        for line in format_table(results, split).splitlines():
            logger.info("%s", line)
        return results
