"""Predict the splits of a dataset and score the predictions."""

import importlib.util
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from data.annotations import read_subset
from engine.alignment import TextEncoder, describe_clip_encoder, is_encoder_name, load_text_encoder
from engine.checks import check_evaluation
from engine.config import Config, SplitName
from engine.inference import predict_dataset, predict_unlabeled, raise_if_any_rank_stops
from engine.predictions import Prediction
from engine.provenance import read_encoder, require_same_encoder
from engine.scoring import check_caption_metrics, format_table
from engine.scoring_process import ScoredSplit, ScoringJob, scoring_process
from engine.setup import (
    annotation_file,
    build_model,
    init_run,
    load_trained,
    open_split,
    resolve_feature_width,
)
from metrics.captions import describe_missing_java
from models.caption_decoder import CaptionDecoder
from models.vtsum_blip import VTSumBLIP
from utils import distributed, interrupt
from utils.distributed import DistContext
from utils.download import is_url, resolve_file
from utils.environment import environment_info
from utils.files import compute_sha256
from utils.published_weights import fetch_hint
from utils.settings import write_settings

logger = logging.getLogger(__name__)


class Evaluator:
    """Predicts and scores the configuration's splits; the constructor loads and checks the data and VT-CLIP.

    Args:
        config: settings of the run.
        context: rank, world size and device of this process.
    Raises:
        FileNotFoundError, ValueError: annotations, features, Java or VT-CLIP are missing or invalid.
    """

    def __init__(self, config: Config, context: DistContext) -> None:
        self.config = config
        self.context = context
        self.captions_left_out = None if config.task == "v2v" else self._check_caption_metrics()
        clip_root = self._find_clip_features()
        self.text_encoder = self._load_text_encoder(clip_root)
        self.clip_provenance: dict[str, Any] = dict(vt_clip_sha256=None)
        if clip_root is not None:
            self.clip_provenance = describe_clip_encoder(clip_root, config.pretrained_clip, self.text_encoder)
        clip_width = None if self.text_encoder is None else self.text_encoder.width
        self.datasets = {
            split: open_split(config, context, split, clip_root=clip_root, clip_width=clip_width)
            for split in config.splits
        }
        self.also_subset = read_subset(config.also_subset) if config.also_subset else None
        if self.also_subset is not None:  # fail now, not after training
            for split, dataset in self.datasets.items():
                self.also_subset.select(dataset.records, annotation_file(config, split))
        self.baselines: dict[str, Any] = {}  # split, or split and subset -> baselines of the last evaluation

    def require_capacity(self, decoder: CaptionDecoder) -> None:
        """Raise a ValueError unless the longest videos and captions of all splits fit the caption decoder."""
        longest = max(max(dataset.num_frames) for dataset in self.datasets.values())
        decoder.require_capacity(longest, self.config.max_text_length)

    def _check_caption_metrics(self) -> str | None:
        """Check what the metrics of captions need on the first process, which scores, see `check_caption_metrics`."""
        missing = distributed.broadcast_object(describe_missing_java(), self.context)
        return check_caption_metrics(missing, self.config.caption_metrics)

    def _find_clip_features(self) -> pathlib.Path | None:
        """Folder of VT-CLIP features, None without it; the same on all nodes."""
        root = self.config.clip_root
        is_folder = bool(root) and pathlib.Path(root).is_dir()
        state = "a folder" if is_folder else "no such folder"
        remedy = "copy the folder to all nodes, or set clip_root to '' for none"
        distributed.require_same(state, f"{root}: clip_root", remedy, self.context)
        return pathlib.Path(root) if is_folder else None

    def _load_text_encoder(self, clip_root: pathlib.Path | None) -> TextEncoder | None:
        """Load the text encoder of VT-CLIPScore, or log why the scores that need it are omitted."""
        config, source = self.config, self.config.pretrained_clip
        if config.task != "v2vt":
            reason = f"task {config.task} gives only one of the two summaries"
        elif clip_root is None:
            hint = "; run python -m data.download for VideoXum" if config.clip_root else ""
            reason = f"clip_root: no folder {config.clip_root!r}{hint}"
        elif not self._has_text_encoder():
            reason = f"pretrained_clip: no file {source!r}{fetch_hint(source)}"
        else:
            with distributed.local_main_first(self.context):
                encoder = load_text_encoder(source, self.context.device, config.text_tokenizer)
            state = "no tokenizer" if encoder is None else "a tokenizer"
            remedy = "set text_tokenizer to a folder that all nodes have"
            distributed.require_same(state, f"{source}: pretrained_clip", remedy, self.context)
            if encoder is not None:
                return encoder
            reason = f"pretrained_clip: no tokenizer of {source}"
        has_f_clip = clip_root is not None and config.task != "v2t"
        omitted = "VT_CLIPScore and Cross-F_CLIP" if has_f_clip else "VT_CLIPScore, F_CLIP and Cross-F_CLIP"
        logger.warning("%s are omitted: %s", omitted, reason)
        return None

    def _has_text_encoder(self) -> bool:
        """Whether there is a text encoder of VT-CLIPScore to load; the same on all nodes."""
        source = self.config.pretrained_clip
        is_file = pathlib.Path(source).is_file() or is_url(source) or is_encoder_name(source)
        state = "a file" if is_file else "no such file"
        remedy = "copy the file to all nodes, or set pretrained_clip to '' for none"
        distributed.require_same(state, f"{source}: pretrained_clip", remedy, self.context)
        return is_file

    def evaluate(
        self,
        model: VTSumBLIP,
        *,
        checkpoint: pathlib.Path | None = None,
        trained_with: dict[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Predict and score the configuration's splits; the first process writes all files.

        Args:
            model: not wrapped for DDP, the same weights on every process.
            checkpoint: path of the weights' file; its hash goes into the results.
            trained_with: configuration that the checkpoint was trained with; None if it is this one.
        Returns:
            split -> results; empty on all processes but the first.
        """
        origin = dict(
            config=self.config.as_dict(),
            trained_with=trained_with,
            processes=self.context.world_size,
            encoder=read_encoder(self.config.video_embeddings_root) or None,
            decoder_base=None if model.text_decoder is None else model.text_decoder.describe_base(),
            **self.clip_provenance,
            versions=environment_info(),
            checkpoint_sha256=compute_sha256(checkpoint) if checkpoint and self.context.is_main else None,
        )
        scoring = scoring_process() if self.context.is_main else None
        if scoring is not None and self.config.task != "v2v" and self.captions_left_out is None:
            scoring.start_meteor()
        results: dict[str, dict[str, Any]] = {}
        try:
            for split in self.config.splits:
                logger.info("%s: predicting %d videos", split, len(self.datasets[split]))
                dataset = self.datasets[split]
                predictions = predict_dataset(model, dataset, split, self.config, self.context, self.text_encoder)
                if scoring is not None and predictions is not None:
                    scoring.submit(self._scoring_job(split, predictions, origin))
                    results |= self._receive(scoring.poll())
            logger.info("scoring the predictions")
            while distributed.any_rank(scoring is not None and scoring.is_busy, self.context):
                raise_if_any_rank_stops(self.context)
                time.sleep(0.1)
                if scoring is not None:
                    results |= self._receive(scoring.poll())
        except BaseException:
            if scoring is not None and scoring.is_busy:
                scoring.kill()
            raise
        return results

    def _scoring_job(self, split: SplitName, predictions: list[Prediction], origin: dict[str, Any]) -> ScoringJob:
        dataset = self.datasets[split]
        return ScoringJob(
            output_dir=self.config.output_dir,
            split=split,
            predictions=predictions,
            records=dataset.records,
            baselines=self.baselines,
            subset=dataset.subset,
            also_subset=self.also_subset,
            frame_features=None if dataset.clip_features is None else dataset.clip_features.load,
            captions_left_out=self.captions_left_out,
            origin=origin,
        )

    def _receive(self, scored_splits: Sequence[ScoredSplit]) -> dict[str, dict[str, Any]]:
        """Keep the baselines, and log the messages and the table of each split; returns split -> results."""
        for scored in scored_splits:
            self.baselines |= scored.baselines
            for record in scored.log_records:
                logging.getLogger(record.name).handle(record)
            _log_table(scored.split, scored.results)
        return {scored.split: scored.results for scored in scored_splits}


def _log_table(split: str, results: dict[str, Any]) -> None:
    if importlib.util.find_spec("tabulate") is None:  # not a core package
        logger.info("%s: %s", split, results["metrics"])
        return
    tables = {split: results} | {f"{split}, {name}": part for name, part in results.get("subsets", {}).items()}
    for title, part in tables.items():
        for line in format_table(part, title).splitlines():
            logger.info("%s", line)


@interrupt.repeated_on_restart("the evaluation")
def evaluate_checkpoint(config: Config, notes: Sequence[str], source: str) -> None:
    """Evaluate a checkpoint in a separate run; with `predict_only`, predict without scoring.

    Args:
        config: settings of the run.
        notes: lines about the configuration for the log.
        source: path or URL of the checkpoint.
    Raises:
        FileNotFoundError, ValueError: data or checkpoint are missing or invalid.
        Interrupted: a signal asked the run to stop; its predictions are not kept.
    """
    check_evaluation(config, source)
    context = init_run(config, notes, "eval.log")
    config = resolve_feature_width(config)
    if context.is_main:
        write_settings(config, pathlib.Path(config.output_dir, "config_eval.yaml"))
    with distributed.local_main_first(context):
        checkpoint = resolve_file(source)
    model = build_model(config)
    trained = load_trained(config, model, checkpoint)
    require_same_encoder(trained.encoder, read_encoder(config.video_embeddings_root), source)
    if config.predict_only:
        predict_unlabeled(model.to(context.device), config, context)
        return
    evaluator = Evaluator(config, context)
    if model.text_decoder is not None:
        evaluator.require_capacity(model.text_decoder)
    evaluator.evaluate(model.to(context.device), checkpoint=checkpoint, trained_with=trained.config)
