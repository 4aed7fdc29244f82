"""Beam search at the published size, compared with transformers' `generate` on the same weights.

Axes: B videos, T frames, K beams, L tokens of a caption, D width.
"""

import copy
import functools
from typing import NamedTuple

import torch

from benchmarks.machine import (
    measure_alternately,
    measure_bandwidth,
    measure_peak_bytes,
    measure_product_rate,
    measure_seconds,
)
from benchmarks.peers import PeerModel
from benchmarks.records import Row
from benchmarks.reference_search import reference_search
from benchmarks.workload import FULL_SIZE_CONFIG, build_full_size_model, draw_lengths, draw_videos, get_blip_decoder
from models.caption_decoder import GenerationOptions
from models.vtsum_blip import VTSumBLIP
from utils.device import PRECISIONS, autocast
from utils.precision import PrecisionName


def widen_weights(model: VTSumBLIP) -> VTSumBLIP:
    """Draw decoder weights with a larger deviation, so that captions do not repeat one token; in evaluation mode."""
    for parameter in get_blip_decoder(model).parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def search_captions(
    model: VTSumBLIP,
    embeddings: torch.Tensor,
    mask: torch.Tensor,
    *,
    num_beams: int,
    length: int,
    precision: PrecisionName = "fp32",
) -> torch.Tensor:
    """Search captions of exactly `length` tokens, prompt included: none ends early.

    Args:
        model: has a caption decoder.
        embeddings: (B, T, D) float.
        mask: (B, T), 1 = real frame.
        num_beams: K.
        length: L.
        precision: autocast precision.
    Returns:
        (B, L) ids.
    """
    with autocast(precision, embeddings.device):
        frames, frame_mask = model.encode(embeddings, mask)
        options = GenerationOptions(num_beams=num_beams, max_length=length, min_length=length)
        return get_blip_decoder(model).generate_ids(frames, frame_mask, options)


def search_in_float64(model: VTSumBLIP, embeddings: torch.Tensor, *, num_beams: int, length: int) -> list[int]:
    """Search one video's caption of exactly `length` tokens by the reference search in float64.

    Args:
        model: has a caption decoder.
        embeddings: (T, D) float.
        num_beams: K.
        length: L.
    Returns:
        L ids.
    """
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        frames, _ = model.encode(embeddings[None].double(), torch.ones(1, len(embeddings)))
    return reference_search(model, frames[0], num_beams=num_beams, max_length=length, min_length=length)


class SearchCost(NamedTuple):
    """Arithmetic operations and bytes read from memory, in float32."""

    operations: int
    num_bytes: int


def count_search_cost(model: VTSumBLIP, B: int, T: int, K: int, L: int) -> SearchCost:
    """Count the cost that a search cannot avoid: each token once; each weight, key and value once per step."""
    decoder = get_blip_decoder(model)
    config = decoder.config
    D = model.position_embeddings.embedding_dim
    width = config.hidden_size
    layers = config.num_hidden_layers
    prompt_length = len(decoder.tokenizer.prompt_ids)
    products_per_token = (
        layers * (6 * width * width + 2 * width * config.intermediate_size) + width * width + width * config.vocab_size
    )
    products_per_frame = 16 * D * D + layers * 2 * D * width  # TT, CA, keys and values of cross-attention
    num_steps = L - prompt_length - 1
    num_tokens = B * (K * num_steps + prompt_length)
    self_attention_keys = sum(prompt_length + step for step in range(num_steps))  # of a beam, over all steps
    attention_products = layers * 2 * width * B * K * (self_attention_keys + num_steps * T)
    operations = 2 * (num_tokens * products_per_token + B * T * products_per_frame + attention_products)
    cached_values = layers * 2 * width * B * (K * self_attention_keys + num_steps * T)
    return SearchCost(operations, (num_steps * products_per_token + cached_values) * 4)


def benchmark_decoding(
    device: torch.device,
    *,
    B: int = 16,
    T: int = 120,
    K: int = 3,
    L: int = 48,
    rounds: int = 2,
    references: int = 1,
    precision: PrecisionName = "fp32",
    med_config: str = FULL_SIZE_CONFIG,
) -> list[Row]:
    """Compare with transformers' `generate`, and on a few videos with the slow reference search.

    The captions are compared in float32; in lower precision, the fraction of equal ones is reported. Those that are not
    transformers' are compared with the reference search, which is in float64: two beams may have nearly equal scores,
    of which float32's rounding selects one.

    Args:
        device: device of the models.
        B: videos.
        T: frames of each.
        K: beams.
        L: tokens of each caption.
        rounds: number of alternating measurements.
        references: number of videos that are compared with the reference search in any case.
        precision: autocast precision of the measurement.
        med_config: see `build_full_size_model`.
    Returns:
        Times; on a GPU, also the peak memory of both.
    """
    model = widen_weights(build_full_size_model(med_config=med_config).to(device))
    tokenizer = get_blip_decoder(model).tokenizer
    embeddings, mask, _ = draw_videos([T] * B)
    embeddings = embeddings.to(device)
    device_mask = mask.to(device)

    def decode_with_project(precision: PrecisionName) -> torch.Tensor:
        return search_captions(model, embeddings, mask, num_beams=K, length=L, precision=precision)

    def decode_with_peer(precision: PrecisionName) -> torch.Tensor:
        with autocast(precision, device):
            return peer.generate(
                embeddings,
                device_mask,
                tokenizer.prompt_ids,
                num_beams=K,
                max_length=L,
                min_length=L,
                end_id=tokenizer.end_id,
                pad_id=tokenizer.pad_id,
            )

    project = functools.partial(decode_with_project, precision)
    ids = decode_with_project("fp32")
    project_bytes = measure_peak_bytes(project, device)
    other_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    peer = PeerModel(model).to(device).eval()
    peer_ids = decode_with_peer("fp32")
    equal_fraction = compute_equal_fraction(ids, peer_ids)
    assert equal_fraction > 0.8, f"{equal_fraction:.0%} of transformers' captions are the same"
    compared = [i for i in range(B) if i < references or not torch.equal(ids[i], peer_ids[i])]
    equal = [i for i in compared if ids[i].tolist() == search_in_float64(model, embeddings[i], num_beams=K, length=L)]
    # On a GPU, the order of summation varies from run to run.
    assert device.type != "cpu" or equal == compared, f"videos {compared}: only {equal} are as in the reference search"
    check = (
        f"{equal_fraction:.0%} of {B} captions are transformers'; {len(equal)} of {len(compared)}, the others "
        "included, are the reference search's in float64"
    )
    if precision != "fp32":
        check += f"; {compute_equal_fraction(ids, project()):.0%} in {precision} are those of float32"
    peer_search = functools.partial(decode_with_peer, precision)
    project_seconds, peer_seconds, ratio = measure_alternately(project, peer_search, device, rounds)
    peer_bytes = measure_peak_bytes(peer_search, device)
    dtype = PRECISIONS[precision] or torch.float32
    cost = count_search_cost(model, B, T, K, L)
    num_bytes = cost.num_bytes * dtype.itemsize / torch.float32.itemsize
    limit_seconds = max(cost.operations / measure_product_rate(device, dtype), num_bytes / measure_bandwidth(device))
    suffix = "" if precision == "fp32" else f", {precision}"
    measurement = f"beam search, B = {B}, K = {K}, T = {T}, {L} tokens{suffix}"
    row = Row(
        measurement=measurement,
        project_value=project_seconds,
        peer_value=peer_seconds,
        unit="s",
        peer_name="transformers' generate",
        ratio=ratio,
        limit_fraction=limit_seconds / project_seconds,
        limit_description="operations at the rate of a large product, or bytes at memory's",
        check=check,
    )
    if project_bytes is None or peer_bytes is None:
        return [row]
    memory_row = Row(
        measurement=f"peak memory, {measurement}",
        project_value=project_bytes / 1e9,
        peer_value=(peer_bytes - other_bytes) / 1e9,
        unit="GB",
        peer_name="transformers' generate",
    )
    return [row, memory_row]


def compute_equal_fraction(ids: torch.Tensor, other_ids: torch.Tensor) -> float:
    """Compute the fraction of equal captions of two searches, (B, L) ids each."""
    return (ids == other_ids).all(1).float().mean().item()


def benchmark_test_split(
    device: torch.device,
    *,
    count: int = 4000,
    batch_size: int = 64,
    L: int = 48,
    precision: PrecisionName = "bf16",
    med_config: str = FULL_SIZE_CONFIG,
) -> list[Row]:
    """Decode as many videos as the test split has, by length, in low precision; takes too long on a CPU.

    Args:
        device: device of the model.
        count: number of videos.
        batch_size: videos per batch.
        L: tokens of each caption.
        precision: compared with float32.
        med_config: see `build_full_size_model`.
    """
    assert PRECISIONS[precision] is not None
    model = widen_weights(build_full_size_model(med_config=med_config).to(device))
    lengths = sorted(draw_lengths(count, seed=2)[0].tolist())
    batches = [draw_videos(lengths[start : start + batch_size], seed=start) for start in range(0, count, batch_size)]

    def decode_split(precision: PrecisionName) -> list[list[int]]:
        captions: list[list[int]] = []
        for embeddings, mask, _ in batches:
            ids = search_captions(model, embeddings.to(device), mask, num_beams=3, length=L, precision=precision)
            captions += ids.tolist()
        return captions

    equal_count = sum(low == full for low, full in zip(decode_split(precision), decode_split("fp32")))
    low_seconds = measure_seconds(functools.partial(decode_split, precision), device, 1)
    full_seconds = measure_seconds(functools.partial(decode_split, "fp32"), device, 1)
    return [
        Row(
            measurement=f"{count} videos decoded, {precision}",
            project_value=low_seconds,
            peer_value=full_seconds,
            unit="s",
            peer_name="float32",
            ratio=full_seconds / low_seconds,
            check=f"{equal_count / count:.1%} of the captions are those of float32",
        )
    ]
