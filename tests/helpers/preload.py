"""Modules that the fork server of `harness` imports before it forks."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch._dynamo  # noqa: F401 (imported by the optimizer)
import transformers.models.bert.tokenization_bert  # noqa: F401

import engine.evaluator
import engine.extraction
import engine.training
import engine.vt_clip_training  # noqa: F401
import eval_v2vt_sum  # noqa: F401
import extract_features  # noqa: F401
import train_v2vt_sum  # noqa: F401
import train_vt_clip  # noqa: F401
