"""The other side of peers.py, in an interpreter that has PyTorch and not this project.

`vse` is VSE-infinity's model as its authors write it (github.com/woodfrog/vse_infty) with VSE++'s BiGRU for
captions; UNITER, ViT and BERT are made of the layers of the transformers library, with its own choice of
attention. python peers_torch.py WORK FILE [--cpu]: a turn for each line of stdin.
"""

import math
import os
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, relu, softmax
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import BertConfig, BertModel, ViTConfig, ViTModel
from transformers.models.bert.modeling_bert import BertEncoder

WORDS, MARGIN, CLIP, DECAY = 8_000, 0.2, 2.0, 1e-4


def training(model, loss, lr):
    """A call that updates the model as the authors do; decay is on all but biases and LayerNorms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)

    def call():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return value

    return call


# VSE-infinity.


def both_ways(gru, x, lengths):
    """The states of a packed BiGRU, the two directions averaged."""
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)
    return (out[..., : out.shape[-1] // 2] + out[..., out.shape[-1] // 2 :]) / 2


class Gpo(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.size = size
        self.gru = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(size, 1, bias=False)

    def forward(self, features, lengths):
        longest = int(lengths.max())
        angle = torch.arange(longest)[:, None] * torch.exp(
            torch.arange(0, self.size, 2) * -(math.log(10_000.0) / self.size)
        )
        codes = torch.stack([angle.sin(), angle.cos()], -1).reshape(1, longest, self.size)
        mask = (torch.arange(longest) < lengths[:, None])[..., None]
        codes = codes.repeat(len(lengths), 1, 1).masked_fill(~mask, 0)
        scores = self.linear(both_ways(self.gru, codes, lengths))
        scores = scores - 0.03 * torch.arange(longest)[:, None]  # ours; the authors' has none
        scores = scores.masked_fill(~mask, -10_000)
        features = features[:, :longest].masked_fill(~mask, -10_000)
        features = features.sort(dim=1, descending=True)[0].masked_fill(~mask, 0)
        return (features * softmax(scores / 0.1, 1)).sum(1)


class Vse(nn.Module):
    def __init__(self, dim=1024, region_dim=2048, word_dim=300):
        super().__init__()
        self.fc = nn.Linear(region_dim, dim)
        self.mlp = nn.Sequential(nn.Linear(region_dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))
        self.image_pool, self.text_pool = Gpo(), Gpo()
        self.words = nn.Embedding(WORDS, word_dim)
        self.gru = nn.GRU(word_dim, dim, batch_first=True, bidirectional=True)

    def forward(self, regions, region_counts, ids, lengths):
        images = self.image_pool(self.fc(regions) + self.mlp(regions), region_counts)
        texts = self.text_pool(both_ways(self.gru, self.words(ids), lengths), lengths)
        return normalize(images, dim=-1), normalize(texts, dim=-1)


def vse(weights, batch):
    model = Vse()
    model.load_state_dict(weights)
    own = torch.eye(len(batch["image_id"])) > 0.5

    def loss():
        counts = batch["image.mask"].sum(1), batch["text.mask"].sum(1)
        ids = batch["text.ids"][:, : int(counts[1].max())]  # a batch is padded to its longest caption
        v, t = model(batch["image.regions"].float(), counts[0], ids.long(), counts[1])
        scores = v @ t.T
        matched = scores.diag()
        by_image = relu(MARGIN + scores - matched[:, None]).masked_fill(own, 0)
        by_text = relu(MARGIN + scores - matched[None, :]).masked_fill(own, 0)
        return by_image.max(1)[0].sum() + by_text.max(0)[0].sum()

    return training(model, loss, 5e-4)


# UNITER and IAIS.


class Uniter(nn.Module):
    """By the names of the authors' code (github.com/ChenRocks/UNITER)."""

    def __init__(self, positions, width=768, region_dim=2048):
        super().__init__()
        config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        config._attn_implementation = "sdpa"
        norm = lambda: nn.LayerNorm(width, eps=1e-12)
        text = {
            "word_embeddings": nn.Embedding(WORDS, width),
            "position_embeddings": nn.Embedding(positions, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": norm(),
        }
        image = {"img_linear": nn.Linear(region_dim, width), "pos_linear": nn.Linear(7, width)}
        image |= {name: norm() for name in ("img_layer_norm", "pos_layer_norm", "LayerNorm")}
        parts = {"embeddings": nn.ModuleDict(text), "img_embeddings": nn.ModuleDict(image)}
        parts |= {"encoder": BertEncoder(config), "pooler": nn.ModuleDict({"dense": nn.Linear(width, width)})}
        self.uniter = nn.ModuleDict(parts)
        self.rank_output = nn.Linear(width, 1)

    def embed_text(self, ids):
        parts = self.uniter["embeddings"]
        x = parts["word_embeddings"](ids) + parts["position_embeddings"].weight[: ids.shape[1]]
        return parts["LayerNorm"](x + parts["token_type_embeddings"].weight[0])

    def embed_image(self, regions, boxes):
        parts = self.uniter["img_embeddings"]
        size = boxes[..., 2:] - boxes[..., :2]
        location = torch.cat([boxes, size, size[..., :1] * size[..., 1:]], -1)
        x = parts["img_layer_norm"](parts["img_linear"](regions))
        x = x + parts["pos_layer_norm"](parts["pos_linear"](location))
        return parts["LayerNorm"](x + self.uniter["embeddings"]["token_type_embeddings"].weight[1])

    def match(self, text, image):
        """The scores, and the input of the last layer. All positions are true: no mask is needed."""
        x = last = torch.cat([text, image], 1)
        for layer in self.uniter["encoder"].layer:
            last, x = x, layer(x)
        return self.rank_output(torch.tanh(self.uniter["pooler"]["dense"](x[:, 0])))[:, 0], last

    def maps(self, last, words):
        """A_LL, A_VV, A_LV, A_VL of the last layer; [CLS] and [SEP] are no words."""
        attention = self.uniter["encoder"].layer[-1].attention.self
        heads = lambda x: x.unflatten(-1, (12, 64)).transpose(1, 2)
        q, k = heads(attention.query(last)), heads(attention.key(last))
        sides = {"l": slice(1, words - 1), "v": slice(words, None)}
        attend = lambda a, b: softmax(q[:, :, a] @ k[:, :, b].transpose(2, 3) / 8, -1).mean(1)
        return {x + y: attend(sides[x], sides[y]) for x, y in ("ll", "vv", "lv", "vl")}


def load_uniter(weights, batch):
    model = Uniter(batch["text.ids"].shape[1])
    model.load_state_dict(weights)
    texts = lambda: model.embed_text(batch["text.ids"].long())
    images = lambda: model.embed_image(batch["image.regions"].float(), batch["image.boxes"])
    return model, texts, images


def uniter(weights, batch):
    model, texts, images = load_uniter(weights, batch)

    @torch.no_grad()
    def call():
        return model.match(texts(), images())[0].sum()

    return call


def singular(own, other, out):
    """IAIS's singular alignment, summed over pairs."""
    chosen = out.argmax(2)
    rows = torch.arange(len(own))[:, None, None]
    target = softmax(other[rows, chosen[:, :, None], chosen[:, None, :]], 2)
    return ((own - target) * (own.log() - target.log())).sum(2).mean(1).sum()


def iais(weights, batch, anchors=2, hardest=7, total=5_000):
    model, texts, images = load_uniter(weights, batch)
    pool, words = batch["text.ids"].shape
    step = iter(range(total))

    def mined(texts, images, by_image):
        """The hardest rows of the other side, for each anchor, after its own."""
        pairs = []
        for k in range(anchors):
            same = torch.full((pool,), k)
            each = torch.arange(pool)
            text, image = (each, same) if by_image else (same, each)
            scores = model.match(texts[text], images[image])[0]
            scores[k] = -torch.inf
            pairs.append(torch.cat([torch.tensor([k]), scores.topk(hardest).indices]))
        return torch.stack(pairs)

    def side(texts, images, by_image):
        with torch.no_grad():
            rows = mined(texts, images, by_image)
        same = rows[:, :1].expand_as(rows)
        text, image = (rows, same) if by_image else (same, rows)
        scores, last = model.match(texts[text.ravel()], images[image.ravel()])
        chance = scores.view(rows.shape).sigmoid()
        maps = model.maps(last[:: rows.shape[1]], words)
        aligned = singular(*(maps[name] for name in (("vv", "ll", "vl") if by_image else ("ll", "vv", "lv"))))
        return relu(MARGIN + chance[:, 1:] - chance[:, :1]).mean(), aligned

    def loss():
        t, v = texts(), images()
        (rank_v, aligned_v), (rank_t, aligned_t) = side(t, v, True), side(t, v, False)
        return rank_v + rank_t + math.exp(5 * (next(step) / total - 1)) * (aligned_v + aligned_t)

    return training(model, loss, 5e-5)


# ViT-B/16 and BERT base.

RENAMED = {  # this release's names of ViT's modules, by the published ones
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def renamed(name):
    for published, new in RENAMED.items() if name.startswith("image.") else ():
        name = name.replace(published, new)
    return name


def towers(weights, batch, width=768, dim=512):
    text = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = nn.ModuleDict(
        {
            "image": ViTModel(ViTConfig(), add_pooling_layer=False),
            "text": BertModel(text, add_pooling_layer=False),
            "image_head": nn.Linear(width, dim),
            "text_head": nn.Linear(width, dim),
        }
    )
    model.load_state_dict({renamed(name): x for name, x in weights.items()})
    targets = torch.arange(len(batch["text.ids"]))

    def call():
        model.zero_grad()
        pixels = (batch["image.pixels"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        v = model["image"](pixel_values=pixels).last_hidden_state[:, 0]
        t = model["text"](batch["text.ids"].long(), batch["text.mask"]).last_hidden_state[:, 0]
        v, t = normalize(model["image_head"](v), dim=-1), normalize(model["text_head"](t), dim=-1)
        logits = 20 * v @ t.T
        loss = (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
        loss.backward()
        return loss

    return call


def main():
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    clock = time.process_time if "--cpu" in sys.argv else time.perf_counter
    shared = {name: torch.from_numpy(x) for name, x in np.load(sys.argv[2]).items()}
    part = lambda prefix: {k.removeprefix(prefix): x for k, x in shared.items() if k.startswith(prefix)}
    call = {"vse": vse, "uniter": uniter, "iais": iais, "towers": towers}[sys.argv[1]](
        part("weights/"), part("batch/")
    )
    print("ready", flush=True)
    for _ in sys.stdin:
        start = clock()
        loss = call().item()
        print(loss, clock() - start, flush=True)


if __name__ == "__main__":
    main()
