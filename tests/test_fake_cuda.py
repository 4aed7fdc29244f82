"""Devices, host syncs and copies of training, generation, VT-CLIP and frame encoders on a fake GPU."""

import inspect

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tqdm import tqdm

from data.collate import Batch
from data.registry import load_annotations
from data.vt_clip_dataset import VTClipBatch
from engine.alignment import add_clip_scores
from engine.config import Config, VTClipConfig
from engine.predictions import Prediction
from engine.trainer import AccumulationWindow, TrainingSetup
from engine.training import VTSumTrainer
from engine.vt_clip_training import VTClipTrainer, build_optimizer
from models.frame_encoders import EncoderOptions, FrameEncoder, clip_frame_encoder, load_frame_encoder
from models.vt_clip import load_vt_clip
from models.vt_clip_finetuner import VTClipFineTuner
from tests.helpers.encoders import build_open_clip_folder, save_timm_encoder
from tests.helpers.fake_cuda import WrongDevice, fake_cuda, move_to_cuda, run_backward
from utils.device import PRECISIONS, autocast, gradient_scaler
from utils.distributed import DistContext
from utils.frame_transform import FrameTransform
from utils.log import JsonlLogger

CUDA = torch.device("cuda")
CONTEXT = DistContext(rank=0, local_rank=0, world_size=1, device=CUDA)
CAPTIONS = ["a video of a red circle", "a video of a blue square spins", "a video of a green triangle bounces"]
LENGTHS = [20, 7, 13]
WIDTH = 64  # of the frame features
LONG_TEXT = "a red circle bounces " * 30  # more than the 77 tokens of CLIP's position table


def read_item(x):
    return x.sum().item()


def read_list(x):
    return x.tolist()


def copy_to_host(x):
    return x.cpu()


def find_indices(x):
    return x.nonzero()


def assign_by_mask(x):
    x[x > 0] = x[0]


def index_by_host_tensor(x):
    return x[torch.tensor([0, 1])]


def copy_from_pageable_memory(x):
    return x.copy_(torch.ones(3), non_blocking=True)


def wait_for_copy(x):
    return torch.ones(3).pin_memory().to(x.device)


def build_from_list(x):
    return torch.tensor([1.0, 2.0, 3.0], device=x.device)


SYNCING = [read_item, read_list, copy_to_host, find_indices, assign_by_mask, index_by_host_tensor]
SYNCING += [copy_from_pageable_memory, wait_for_copy, build_from_list]


@pytest.mark.parametrize("function", SYNCING, ids=lambda function: function.__name__)
def test_planted_host_sync_is_located(function):
    with fake_cuda() as gpu:
        x = torch.ones(3, device="cuda")
        assert gpu.syncs == []
        function(x)
        (line,) = gpu.syncs
    lines, first = inspect.getsourcelines(function)
    assert str(line) == f"tests/test_fake_cuda.py:{first + len(lines) - 1}" and line.function == function.__name__


def add_on_two_devices(x):
    return x + torch.ones(3)


def embed_host_indices(x):
    return torch.nn.functional.embedding(torch.tensor([1]), x[:, None])


@pytest.mark.parametrize("function", [add_on_two_devices, embed_host_indices], ids=lambda function: function.__name__)
def test_planted_wrong_device_is_located(function):
    line = inspect.getsourcelines(function)[1] + 1
    expected = rf"test_fake_cuda.py:{line}: aten.\w+.\w+: found tensors on cuda and cpu"
    with fake_cuda(), pytest.raises(WrongDevice, match=expected):
        function(torch.ones(3, device="cuda"))


def test_planted_wrong_device_in_a_model_is_located(mini_model, random_videos):
    model = mini_model("vtsum_blip_tt", task="v2v", feature_width=WIDTH)
    embeddings, mask, labels = random_videos(LENGTHS, WIDTH)
    with fake_cuda(), pytest.raises(WrongDevice, match="models/losses.py:"):
        move_to_cuda(model)(embeddings.to(CUDA), mask, labels, CAPTIONS)


def test_asynchronous_copy_is_no_host_sync():
    with fake_cuda() as gpu:
        copied = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert copied.device.type == "cuda" and gpu.syncs == [] and len(gpu.copies) == 1


@pytest.mark.parametrize("smoothing_scope", ["published", "scored"])
def test_backward_equals_the_engine(mini_model, random_videos, smoothing_scope):
    gradients = []
    for backward in (torch.Tensor.backward, run_backward):
        model = mini_model(smoothing_scope=smoothing_scope, vit_grad_ckpt=True, feature_width=WIDTH)
        loss_tsum, loss_vsum = model(*random_videos(LENGTHS, WIDTH), CAPTIONS)
        backward(loss_tsum + loss_vsum)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for expected, gradient in zip(*gradients):
        torch.testing.assert_close(gradient, expected)


def build_setup(model, optimizer, precision, output_dir):
    return TrainingSetup(
        context=CONTEXT,
        output_dir=output_dir,
        model=model,
        loader=None,
        sampler=None,
        optimizer=optimizer,
        scaler=gradient_scaler(precision, CUDA),
        data_fingerprint="",
    )


def assert_steps_without_host_sync(gpu, trainer, batch, num_copies):
    """Perform two steps with a batch, each without a host sync, and write a log line, which has three."""
    trainer.model.train()
    trainer.log = JsonlLogger(trainer.output_dir / "log.jsonl", True)
    gpu.reset()
    for step in range(2):
        window = AccumulationWindow(iter([batch]), 1, step + 1, is_last=False)
        losses, video_ids = trainer.forward_backward(window)
        assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)
        trainer.optimizer_step(window, losses, video_ids)
    assert len(trainer.optimizer.state) == sum(p.requires_grad for p in trainer.model.parameters())
    assert gpu.syncs == [] and len(gpu.copies) == 2 * num_copies, (gpu.syncs, gpu.copies)
    trainer.monitor.flush()
    assert gpu.count_syncs() == {"engine/monitor.py:NonFiniteMonitor.flush": 1}
    trainer.log_step(window, losses[-1], tqdm(disable=True))  # losses and gradient norm
    assert gpu.count_syncs()["engine/trainer.py:Trainer.log_step"] == len(gpu.syncs) - 1 == 2
    trainer.log.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("smoothing_scope", ["published", "scored"])
def test_training_step(mini_model, random_videos, tmp_path, precision, smoothing_scope):
    """The copies of a batch: embeddings, labels, and all index tensors together."""
    config = Config(precision=precision)
    embeddings, mask, labels = random_videos(LENGTHS, WIDTH)
    ids = [f"video_{i}" for i in range(len(LENGTHS))]
    model = mini_model(smoothing_scope=smoothing_scope, vit_grad_ckpt=True, feature_width=WIDTH)
    caption_ids = model.text_decoder.tokenizer.pad([model.text_decoder.encode_caption(text) for text in CAPTIONS])
    batch = Batch(ids, [0, 1, 2], embeddings, mask, labels, CAPTIONS, LENGTHS, LENGTHS, caption_ids)
    with fake_cuda() as gpu:
        move_to_cuda(model)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        trainer = VTSumTrainer(config, build_setup(model, optimizer, precision, tmp_path), evaluator=None)
        assert_steps_without_host_sync(gpu, trainer, batch.pin_memory(), num_copies=3)
        assert gpu.product_dtypes == {PRECISIONS[precision] or torch.float32}


@pytest.mark.parametrize(
    ("precision", "sample", "num_done"),
    [("fp32", False, 0), ("bf16", False, 0), ("fp32", False, 2), ("fp32", True, 0), ("bf16", True, 0)],
)
def test_generation(mini_model, random_videos, precision, sample, num_done):
    """One host sync per 8 decoding steps, and two per batch: the longest caption's length, and the captions.

    `num_done` of the videos are finished at each check, and removed from the batch.
    """
    model = mini_model(feature_width=WIDTH)
    embeddings, mask, _ = random_videos([20, 7, 13, 5, 9, 11, 20, 3], WIDTH)
    num_steps = 19
    max_length = len(model.text_decoder.tokenizer.prompt_ids) + num_steps
    with fake_cuda(integer=num_done) as gpu:
        move_to_cuda(model)
        embeddings = embeddings.to(CUDA)
        gpu.reset()
        with autocast(precision, CUDA):
            captions, saliency = model.generate(embeddings, mask, sample=sample, max_length=max_length)
        assert len(captions) == len(mask) and saliency.device.type == "cuda"
        search = "nucleus_sample" if sample else "beam_search"
        assert gpu.count_syncs() == {
            f"models/beam_search.py:{search}": num_steps // 8,
            "models/beam_search.py:append_eos": 1,
            "models/blip_decoder.py:BlipCaptionDecoder.decode": 1,
        }
        assert len(gpu.copies) == 3  # the layout of the frames, and the prompt twice
        assert gpu.product_dtypes == {PRECISIONS[precision] or torch.float32}


@pytest.fixture
def vt_clip(mini_root):
    return load_vt_clip(mini_root / "vt_clip.pth")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("from_videos", [False, True])
def test_vt_clip_training_step(vt_clip, tmp_path, precision, from_videos):
    size = vt_clip.image_size
    shape, dtype = ((3, 2, size, size, 3), torch.uint8) if from_videos else ((3, 1, vt_clip.width), torch.float32)
    frames = torch.ones(shape, dtype=dtype)
    batch = VTClipBatch(frames, frames, torch.tensor([True, True, False]), [*CAPTIONS[:2], LONG_TEXT], ["a", "b", "c"])
    config = VTClipConfig(precision=precision)
    with fake_cuda() as gpu:
        model = move_to_cuda(VTClipFineTuner(vt_clip, from_videos))
        setup = build_setup(model, build_optimizer(config, model), precision, tmp_path)
        trainer = VTClipTrainer(config, setup, [batch.pin_memory()] * 3, precision)
        assert_steps_without_host_sync(gpu, trainer, batch.pin_memory(), num_copies=4)
        assert (PRECISIONS[precision] or torch.float32) in gpu.product_dtypes
        gpu.reset()
        trainer.validate()  # the features of each batch, and the scale
        assert gpu.count_syncs() == {"engine/vt_clip_training.py:VTClipTrainer.validate": 4 * 3 + 1}


@pytest.mark.parametrize("num_videos", [2, 7])
def test_vt_clip_scores(mini_root, vt_clip, num_videos):
    """One host sync per batch: the features of all its texts."""
    records = load_annotations(mini_root / "anno/test_videoxum.json")[:num_videos]
    predictions = [
        Prediction(video_id=r.video_id, caption=f"A circle {i}. It spins.", keyframes=[0])
        for i, r in enumerate(records)
    ]
    vision = [torch.rand(r.num_frames, vt_clip.width).numpy() for r in records]
    with fake_cuda() as gpu:
        move_to_cuda(vt_clip)
        gpu.reset()
        with torch.inference_mode():
            scored = add_clip_scores(predictions, records, vision, vt_clip)
        assert len(scored) == num_videos and all(prediction.vt_clip_score is not None for prediction in scored)
        assert gpu.count_syncs() == {"engine/alignment.py:_encode_texts": 1}


def build_frame_encoder(kind, vt_clip, folder, precision):
    if kind == "blip":
        vit = VisionTransformer(img_size=32, embed_dim=64, depth=1, num_heads=1, num_classes=0, global_pool="token")
        return FrameEncoder(vit, FrameTransform(32), precision).eval()
    if kind == "vt_clip":
        return clip_frame_encoder(vt_clip, precision)
    if kind == "timm":
        return load_frame_encoder(save_timm_encoder(folder / "timm.pth"), EncoderOptions(precision))
    build_open_clip_folder(folder / "clip", {})
    return load_frame_encoder(f"open_clip:local-dir:{folder / 'clip'}", EncoderOptions(precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["blip", "vt_clip", "timm", "open_clip"])
def test_frame_encoder(vt_clip, tmp_path, monkeypatch, precision, kind):
    """One asynchronous copy per chunk of frames."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    encoder = build_frame_encoder(kind, vt_clip, tmp_path, precision)
    size = encoder.transform.size
    with fake_cuda() as gpu:
        move_to_cuda(encoder)
        gpu.reset()
        features = [encoder(torch.zeros(count, size, size, 3, dtype=torch.uint8)) for count in (8, 3)]
        assert gpu.syncs == [] and len(gpu.copies) == len(features)
        assert gpu.product_dtypes == {PRECISIONS[precision] or torch.float32}
    assert all(rows.device.type == "cuda" and rows.dtype == torch.float32 for rows in features)
