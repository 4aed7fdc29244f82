"""The training step at the published size, beside the same model from transformers' parts."""

import torch

from benchmarks.machine import in_turns, product_seconds
from benchmarks.peers import Peer
from benchmarks.workload import draw_captions, draw_lengths, draw_videos, full_size_model
from data.loaders import TrainBatches
from utils.device import PRECISIONS, autocast, gradient_scaler

LAMBDA_VSUM = 15.0


def step(model, optimizer, scaler, batch, precision, *more):
    """One step as the training script does it."""
    with autocast(precision, batch[0].device):
        loss_tsum, loss_vsum = model(*batch, *more)
    scaler.scale(loss_tsum + LAMBDA_VSUM * loss_vsum).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss_tsum, loss_vsum


def products(model, frames, tokens, scope):
    """Linear layers of a step that needs no padding: list of (rows, inputs, outputs, how many)."""
    D, c = model.position_embeddings.embedding_dim, model.text_decoder.config
    W, layers, n = c.hidden_size, c.num_hidden_layers, sum(frames)
    L, prompt = max(tokens) - 1, len(model.tokenizer.prompt_ids)
    queries = L * len(tokens) if scope == "published" else sum(t - 1 for t in tokens)
    keys = sum(min(t, L) for t in tokens) if scope == "published" else queries
    scored = queries if scope == "published" else sum(t - prompt for t in tokens)
    found = [(n, D, 3 * D, 2), (n, D, D, 2), (n, D, 4 * D, 1), (n, 4 * D, D, 1)]  # TT and CA
    found += [(queries, W, W, 4 * layers), (keys, W, W, 2 * layers), (n, D, W, 2 * layers)]
    found += [(queries, W, c.intermediate_size, layers), (queries, c.intermediate_size, W, layers)]
    return [*found, (scored, W, W, 1), (scored, W, c.vocab_size, 1)]


def run(device, *, batch_size=16, rounds=2, precision="fp32", model_options=None):
    """Compare both scopes of the smoothing: list of rows for the table."""
    frames, tokens = (lengths[:batch_size].tolist() for lengths in draw_lengths(8000, seed=1))
    rows = []
    for scope in ("published", "scored"):
        model = full_size_model(smoothing_scope=scope, **(model_options or {})).to(device)
        peer = Peer(model).to(device)
        embeddings, mask, labels = draw_videos(frames)
        ids = draw_captions(tokens, model)
        ours = (embeddings.to(device), mask, labels.to(device), ids)  # lengths stay on the host, as in `Batch.to`
        theirs = tuple(x.to(device) for x in ours)
        with torch.no_grad():  # without dropout, in float32: the same losses
            found = torch.stack(model.eval()(*ours)), torch.stack(peer.eval()(*theirs, scope))
        error = ((found[0] - found[1]) / found[1]).abs().max().item()
        assert error < (1e-5 if device.type == "cpu" else 1e-4), f"losses differ: {found}"
        work = []
        for network, batch, more in ((model.train(), ours, ()), (peer.train(), theirs, (scope,))):
            fused = dict(fused=True) if network is model else {}
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.05, **fused)
            scaler = gradient_scaler(precision, device)
            work.append((network, optimizer, scaler, batch, precision, *more))
        mine, other, ratio = in_turns(lambda w=work[0]: step(*w), lambda w=work[1]: step(*w), device, rounds)
        dtype = PRECISIONS[precision] or torch.float32
        ideal = sum(
            count * product_seconds(m, k, n, device, dtype, True)
            for m, k, n, count in products(model, frames, tokens, scope)
        )
        rows.append(
            dict(
                what=f"training step, {precision}, B = {batch_size}, smoothing {scope}",
                project=mine,
                peer=other,
                unit="s",
                peer_is="BlipTextLMHeadModel, timm, padded",
                ratio=ratio,
                of_limit=ideal / mine,
                limit_is="matrix products on the step's shapes",
                check=f"losses within {error:.0e}",
            )
        )
        del model, peer, work, network, optimizer, batch
    return rows


def padding(batch_size=16):
    """Share of padded places in an epoch of 8,000 videos, with and without bucketing."""
    batches, captions = (
        TrainBatches(lengths, batch_size, rank=0, world_size=1, seed=42) for lengths in draw_lengths(8000, seed=1)
    )
    plain, bucketed = batches.padded_share(False), batches.padded_share(True)
    return [
        dict(
            what="padded frame places of an epoch, length_bucketing",
            project=bucketed,
            peer=plain,
            unit="share",
            peer_is="shuffled batches",
            ratio=plain / bucketed,
        ),
        dict(what="padded token places of an epoch", project=captions.padded_share(False), unit="share"),
    ]
